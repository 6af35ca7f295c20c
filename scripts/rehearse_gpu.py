#!/usr/bin/env python3
"""Every search on a fake GPU: kernels started and waits for the device, by step. No GPU is needed, and none is used.

Written in tests/helpers/gpu_rehearsal.py; the table in docs/results/gpu_rehearsal.txt is what it prints.
"""

import argparse

import checkout

if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    checkout.find_tests()
    from helpers.gpu_rehearsal import main

    main()
