"""The options of a model that fairseq configures by argparse, as a dataclass (for Hydra and for checkpoints)."""

from argparse import ArgumentParser, Namespace
from dataclasses import field, make_dataclass
from typing import Any, Optional

from omegaconf import OmegaConf

from el_fairseq.internals import options_of


def dataclass_of(add_args, architecture, name, base, from_task=()):
    """A subclass of ``base``, called ``name``, with a field for each option that ``add_args`` adds to a parser.

    Fields that ``architecture``, the model's base architecture, fills default to None, "not given": what they become
    depends on the architecture that is chosen and on other options, as it does on the command line. So do those in
    ``from_task``, which follow the task. The others keep their defaults.
    """
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    add_args(parser)
    filled = Namespace(**dict.fromkeys(from_task))
    architecture(filled)
    fields = []
    for action in options_of(parser):
        default = None if hasattr(filled, action.dest) else action.default
        fields.append((action.dest, _type_of(action), field(default=default, metadata={"help": action.help})))
    return make_dataclass(name, fields, bases=(base,), namespace={"__module__": base.__module__})


def _type_of(action):
    if action.nargs == 0:  # store_true
        return Optional[bool]
    if action.type in (int, float):
        return Optional[action.type]
    return Optional[str] if action.type in (None, str) else Any  # lists are parsed by functions


def given(config):
    """The options that are not None, as a namespace."""
    options = config if OmegaConf.is_config(config) else vars(config)
    return Namespace(**{name: value for name, value in options.items() if value is not None})


def fills(architecture, also):
    """``architecture``, a function on a namespace, as one that also fills options that are there but None.

    ``also`` holds options that the architecture does not know, with their defaults.
    """

    def fill(config):
        options = given(config)
        architecture(options)
        vars(options).update({name: default for name, default in also.items() if not hasattr(options, name)})
        for name, value in vars(options).items():
            setattr(config, name, value)

    return fill
