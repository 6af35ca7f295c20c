"""Imported before anything imports triton, for its effect: without a GPU kernels run in Triton's interpreter."""

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
