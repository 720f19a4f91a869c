"""The probabilities of a table of counts, as slowly as they are defined."""


def slow_probs(
    corpus: list[int],
    context: tuple[int, ...],
    vocab_size: int,
    left_out: range = range(0),
    whole: bool = True,
) -> list[float]:
    """The distribution after a context, from the definition, by the grams that do not end in
    `left_out`: dictionaries and recursion.

    whole: no longer context was asked before, so occurrences count; else different left neighbours.
    """
    lower = [1 / vocab_size] * vocab_size
    if context:
        lower = slow_probs(corpus, context[1:], vocab_size, left_out, whole=False)
    n = len(context)
    before: dict[int, list[int | None]] = {}  # next token -> what stood before each occurrence
    for i in range(len(corpus) - n):
        if tuple(corpus[i : i + n]) == context and i + n not in left_out:
            before.setdefault(corpus[i + n], []).append(corpus[i - 1] if i > 0 else None)
    if whole:
        counts = {token: len(left) for token, left in before.items()}
    else:
        counts = {token: len(set(left) - {None}) for token, left in before.items()}
        counts = {token: count for token, count in counts.items() if count > 0}
    total, types = sum(counts.values()), len(counts)
    if total == 0:
        return lower
    return [
        (counts.get(token, 0) + types * lower[token]) / (total + types)
        for token in range(vocab_size)
    ]
