"""What people do to the modules of a model: hooks, wrappers, subclasses, parametrizations, adapters."""

import torch
from torch import nn
from torch.nn.utils import parametrize

FACTOR = 1.3


def scaled(x):
    """``x`` as a module returns it, its first tensor multiplied."""
    if torch.is_tensor(x):
        return x * FACTOR
    if isinstance(x, tuple):
        return (scaled(x[0]), *x[1:])
    return {**x, "encoder_out": [scaled(x["encoder_out"][0])]}  # what an encoder returns


def _scale_inputs(module, args, kwargs):
    if args and torch.is_tensor(args[0]) and args[0].is_floating_point():
        return (args[0] * FACTOR, *args[1:]), kwargs
    for name in ("query", "x"):
        if name in kwargs:
            return args, {**kwargs, name: kwargs[name] * FACTOR}
    if args and isinstance(module, nn.Embedding) and torch.is_tensor(args[0]):
        return (args[0].clamp(max=8), *args[1:]), kwargs
    return args, kwargs


class Wrapper(nn.Module):
    """Calls a module, as adapters do, and has all its attributes."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "reorder_incremental_state":  # fairseq would call it twice
                raise
            return getattr(super().__getattr__("inner"), name)

    def forward(self, *args, **kwargs):
        return scaled(self.inner(*args, **kwargs))


class LoRA(nn.Module):
    """A low-rank update beside a linear layer."""

    def __init__(self, base):
        super().__init__()
        generator = torch.Generator().manual_seed(base.in_features)
        self.base, self.weight, self.bias = base, base.weight, base.bias
        self.down, self.up = (
            torch.randn(*shape, generator=generator, dtype=base.weight.dtype) / 3
            for shape in ((2, base.in_features), (base.out_features, 2))
        )

    def forward(self, x):
        return self.base(x) + x @ self.down.t() @ self.up.t()


class _Scale(nn.Module):
    def forward(self, weight):
        return weight * FACTOR


def hook(model, name):
    model.get_submodule(name).register_forward_hook(lambda module, args, output: scaled(output))


def pre_hook(model, name):
    model.get_submodule(name).register_forward_pre_hook(_scale_inputs, with_kwargs=True)


def wrapper(model, name):
    model.set_submodule(name, Wrapper(model.get_submodule(name)))


def subclass(model, name):
    module = model.get_submodule(name)
    cls = type(module)
    module.__class__ = type(
        f"Own{cls.__name__}", (cls,), {"forward": lambda self, *a, **k: scaled(cls.forward(self, *a, **k))}
    )


def parametrization(model, name):
    parametrize.register_parametrization(model.get_submodule(name), "weight", _Scale())


def lora(model, name):
    model.set_submodule(name, LoRA(model.get_submodule(name)))


def has_weight(module):
    return isinstance(getattr(module, "weight", None), nn.Parameter)


CHANGES = {  # name -> the change, and for which modules it can be
    "hook": (hook, lambda module: True),
    "pre-hook": (pre_hook, lambda module: True),
    "wrapper": (wrapper, lambda module: True),
    "subclass": (subclass, lambda module: True),
    "parametrization": (parametrization, has_weight),
    "LoRA": (lora, lambda module: type(module) is nn.Linear),
}
