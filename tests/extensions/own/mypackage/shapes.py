"""What the model imports."""


def widened(n_embd: int) -> int:
    return 2 * n_embd
