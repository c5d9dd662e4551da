"""How good is a model? The paper's measures, beside baselines that need no learning."""
