"""The generator, its decoder state, and the plan."""

from el_fairseq.generation.enable import disable_el_attention, enable_el_attention
from el_fairseq.generation.generator import ELSequenceGenerator, ELSequenceGeneratorWithAlignment

__all__ = [
    "ELSequenceGenerator",
    "ELSequenceGeneratorWithAlignment",
    "disable_el_attention",
    "enable_el_attention",
]
