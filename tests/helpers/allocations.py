"""How much memory tensors take at most while something runs on a CPU, from the allocator's own events."""

from torch.profiler import ProfilerActivity, profile


def peak_of(run):
    """Bytes that ``run()`` allocated and had not yet freed, at their highest."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak
