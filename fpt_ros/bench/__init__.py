"""How fast is it, against the plain implementation and against what the machine can do?"""
