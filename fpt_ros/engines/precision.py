"""Half precision in a graph, written down: where numbers are halved, and where they are not."""

from __future__ import annotations

import onnx_ir as ir

# Matrix products take nearly all of the time, and their sums are in float32 on every GPU. All else
# (norms, softmax, rotary code, residuals) stays in float32 and is fused into their neighbours.
_PRODUCTS = ("MatMul", "Gemm", "Conv")
_FULL = ir.DataType.FLOAT
# The modules whose products stay in float32: what they say is the answer.
_HEAD = ("out_mlp", "poke_reference")


def halve_products(model: ir.Model, half: ir.DataType) -> None:
    """Compute the matrix products of a float32 graph in bfloat16 or float16, but for the head's.

    Keys and values enter and leave the graph in that type, too.
    """
    # The first version that has Conv in bfloat16; no operator in use has changed otherwise.
    model.graph.opset_imports[""] = 22
    halver = _Halver(model.graph, half)
    products = [
        node
        for node in model.graph
        if node.op_type in _PRODUCTS and node.outputs[0].dtype == _FULL and not _in_head(node)
    ]
    for value in model.graph.inputs:
        if _is_key(value):
            halver.accept(value)
    for node in products:
        for index, factor in enumerate(node.inputs):
            if factor is not None:
                node.replace_input_with(index, halver.half(factor))
        halver.widen(node)
    for index, value in enumerate(model.graph.outputs):
        if _is_key(value):
            name, value.name = value.name, f"{value.name}_full"
            model.graph.outputs[index] = halved = halver.half(value)
            halved.name = name
    for name, weight in list(model.graph.initializers.items()):
        if not weight.uses():
            del model.graph.initializers[name]


class _Halver:
    def __init__(self, graph: ir.Graph, half: ir.DataType) -> None:
        self.graph = graph
        self.type = half
        self.halves: dict[ir.Value, ir.Value] = {}

    def half(self, value: ir.Value) -> ir.Value:
        """The value in half precision."""
        if value not in self.halves:
            weight = value.const_value if value.is_initializer() else None
            if weight is None:
                self.halves[value] = self._cast(value, self.type)
            else:
                data = ir.tensor(weight.numpy().astype(self.type.numpy()))
                halved = ir.val(f"{value.name}_half", self.type, value.shape, const_value=data)
                self.graph.register_initializer(halved)
                self.halves[value] = halved
        return self.halves[value]

    def accept(self, value: ir.Value) -> None:
        """Let an input of the graph come in half precision."""
        value.dtype = self.type
        self.halves[self._widened(value)] = value

    def widen(self, product: ir.Node) -> None:
        """Let a product yield half precision, and all that takes it the same as float32."""
        value = product.outputs[0]
        value.dtype = self.type
        self.halves[self._widened(value)] = value

    def _widened(self, value: ir.Value) -> ir.Value:
        uses = tuple(value.uses())
        wide = self._cast(value, _FULL)
        for user, index in uses:
            user.replace_input_with(index, wide)
        return wide

    def _cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        suffix = "full" if dtype == _FULL else "half"
        result = ir.val(f"{value.name}_{suffix}", dtype, value.shape)
        node = ir.node("Cast", [value], {"to": dtype}, outputs=[result])
        producer = value.producer()
        if producer is None:
            self.graph.insert_before(self.graph[0], node)
        else:
            self.graph.insert_after(producer, node)
        return result


def _in_head(node: ir.Node) -> bool:
    scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes", "")
    return any(f".{module}" in scopes for module in _HEAD)


def _is_key(value: ir.Value) -> bool:
    """Whether these are keys or values of attention, of the image or of pokes."""
    return any(f"_{kind}_" in str(value.name) for kind in ("key", "value"))
