"""Every kind of assignment, and what each means, by plain loops."""

import torch

from weft.types import Dense, Rows, Tokens, TopK

FIXED = ["rows", "one-row", "tokens", "tokens-short", "topk", "top1", "dense-row", "dense-token"]


def assignment_of(kind, rows, columns, count, *, seed=0):
    """A random fixed assignment; -1 among the indices, an adapter twice on a token among the pairs."""
    rng = torch.Generator().manual_seed(seed)

    def index(*shape):
        return torch.randint(-1, count, shape, generator=rng)

    def weight(*shape):
        return torch.rand(*shape, generator=rng) * 2 - 0.5

    match kind:
        case "rows":
            return Rows(index(rows))
        case "one-row":
            return Rows(torch.randint(0, count, (1,), generator=rng))
        case "tokens":
            return Tokens(index(rows, columns))
        case "tokens-short":
            return Tokens(index(rows, max(1, columns - 2)))
        case "topk":
            return TopK(index(rows, columns, 2), weight(rows, columns, 2))
        case "top1":
            return TopK(index(rows, columns, 1), weight(rows, columns, 1))
        case "dense-row":
            return Dense(weight(rows, count))
        case "dense-token":
            return Dense(weight(rows, columns, count))


def weights_of(assignment, rows, columns, count):
    """Any assignment as a weight per row, column and adapter, one number after the other."""
    zero = torch.zeros(())
    table = [[[zero] * count for _ in range(columns)] for _ in range(rows)]
    for row in range(rows):
        for column in range(columns):
            for adapter, weight in _choices(assignment, row, column):
                if adapter >= 0:
                    table[row][column][adapter] = table[row][column][adapter] + weight
    return torch.stack([torch.stack([torch.stack(cell) for cell in line]) for line in table])


def _choices(assignment, row, column):
    one = torch.ones(())
    match assignment:
        case Rows(index):
            return [(int(index[min(row, len(index) - 1)]), one)]
        case Tokens(index):
            return [(int(index[row, min(column, index.shape[1] - 1)]), one)]
        case TopK(index, weight):
            at = min(column, index.shape[1] - 1)
            return [(int(i), w) for i, w in zip(index[row, at], weight[row, at], strict=True)]
        case Dense(weight) if weight.dim() == 2:
            return list(enumerate(weight[row]))
        case Dense(weight):
            return list(enumerate(weight[row, min(column, weight.shape[1] - 1)]))


def loop(x_BTI, a_KRI, b_KOR, weight_BTK, combine="sum"):
    """What every kernel must give: one token and one adapter after the other, in float64."""
    x, a, b, w = x_BTI.double(), a_KRI.double(), b_KOR.double(), weight_BTK.double()
    rows = []
    for row in range(x.shape[0]):
        tokens = []
        for column in range(x.shape[1]):
            weight = w[row, column]
            if combine == "average":
                a_RI = sum(weight[k] * a[k] for k in range(len(a)))
                b_OR = sum(weight[k] * b[k] for k in range(len(a)))
                tokens.append(b_OR @ (a_RI @ x[row, column]))
            else:
                tokens.append(sum(weight[k] * (b[k] @ (a[k] @ x[row, column])) for k in range(len(a))))
        rows.append(torch.stack(tokens))
    return torch.stack(rows)
