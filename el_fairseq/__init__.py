"""EL-attention and MHE attention for fairseq (``--user-dir el_fairseq``)."""

from el_fairseq.internals import require_torch

require_torch()

from el_fairseq.compat import guard_loading  # noqa: E402

guard_loading()

from el_fairseq import models  # noqa: E402
from el_fairseq.generation import disable_el_attention, enable_el_attention  # noqa: E402
from el_fairseq.scoring import rouge  # noqa: E402
from el_fairseq.tasks import el_tasks  # noqa: E402

__all__ = ["disable_el_attention", "enable_el_attention", "el_tasks", "models", "rouge"]
__version__ = "0.1.0"
