"""Which task follows which in streams."""


def follows(streams):
    """Ordered pairs of different tasks that stand one behind the other."""
    return {
        (a.task, b.task)
        for s in streams
        for a, b in zip(s.parts, s.parts[1:], strict=False)
        if a.task != b.task
    }
