"""Whether the tensors of an adapter have the sizes of the base's modules."""

from collections.abc import Mapping

from weft.errors import ShapeError
from weft.store.layout import layer_of
from weft.store.store_file import Modules


def check_modules(shapes: Mapping[str, tuple[int, ...]], modules: Modules | None, source: object) -> None:
    """Raise ShapeError for a lora_A or lora_B of another size than its module, or of none of the modules.

    `shapes` are by tensor name. Modules that the base does not list among others that it does (an embedding,
    a head) are not judged, and nothing is where the base is unknown.
    """
    if modules is None:
        return
    layers: dict[str, str] = {}
    for name, shape in shapes.items():
        half = next((half for half in ("lora_A", "lora_B") if name.endswith(f".{half}.weight")), None)
        if half is None or len(shape) != 2:
            continue
        layer = layers.setdefault(name, layer_of(name))
        if layer in modules:
            features_in, features_out = modules[layer]
            want, have = (features_in, shape[1]) if half == "lora_A" else (features_out, shape[0])
            if want != have:
                told = f"[R, {want}]" if half == "lora_A" else f"[{want}, R]"
                raise ShapeError(f"{source}: {half} of {layer} is {list(shape)}, the base needs {told}")
    if layers and not modules.keys() & set(layers.values()):
        raise ShapeError(
            f"{source}: the base has no module {next(iter(layers.values()))}, nor any other of these"
        )
