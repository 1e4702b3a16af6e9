"""What every gate must give, by plain loops over tokens in float64, and the gates themselves."""

import math

import torch

from weft.route import Arrow, Phatgoose, Smear, Spectr, TreeGate, XLora, full


def rms(x):
    """A vector at unit root mean square."""
    x = [_number(v) for v in x]
    size = math.sqrt(sum(v * v for v in x) / len(x) + 1e-6)
    return [v / size for v in x]


def dot(x, y):
    return sum(a * b for a, b in zip(map(_number, x), map(_number, y), strict=True))


def _number(x):
    return x.item() if isinstance(x, torch.Tensor) else float(x)


def sigmoid(z):
    return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))


def softmax(scores):
    top = max(scores)
    e = [math.exp(s - top) for s in scores]
    return [v / sum(e) for v in e]


def descend(gate, x, group=0):
    """Weights of all leaves for one vector: walk to each leaf, turn by turn."""
    x = rms(x)
    nodes = sorted({leaf[:i] for leaf in gate.leaves for i in range(len(leaf))}, key=lambda n: (len(n), n))
    logit = {
        node: dot(gate.weight_LNH[group, n], x) + gate.bias_LN[group, n].item()
        for n, node in enumerate(nodes)
    }
    weights = []
    for leaf in gate.leaves:
        weight = 1.0
        for i, turn in enumerate(leaf):
            if gate.descent == "hard":
                right = 1.0 if logit[leaf[:i]] >= 0 else 0.0
            else:
                right = sigmoid(logit[leaf[:i]] / gate.temperature)
            weight *= right if turn == "1" else 1 - right
        weights.append(weight)
    return weights


def top(scores, k, temperature=1.0):
    """Softmax over the k best, 0 for the others."""
    best = sorted(range(len(scores)), key=lambda i: -scores[i])[:k]
    weights = [0.0] * len(scores)
    for i, w in zip(best, softmax([scores[i] / temperature for i in best]), strict=True):
        weights[i] = w
    return weights


def directions(bank, site, k):
    """SVD of one dense delta."""
    delta = bank.b[site][k].double() @ bank.a[site][k].double()
    return torch.linalg.svd(delta)


def per_token(weights_of, x_BTI):
    """A weight per row, token and adapter from a function of one vector."""
    return torch.tensor([[weights_of(x) for x in row] for row in x_BTI], dtype=torch.float64)


TOKEN = ["tree-hard", "tree-soft", "tree-layers", "tree-late", "xlora", "arrow", "spectr", "phatgoose"]
SEQUENCE = ["tree-sequence", "tree-sequence-soft", "smear"]


def make_gate(name, bank, dim, *, seed=0):
    """A gate of every kind over a bank of 4, in evaluation mode."""
    rng = torch.Generator().manual_seed(seed)
    leaves = full(2)
    match name:
        case "tree-hard":
            gate = TreeGate(leaves, dim, seed=seed)
        case "tree-soft":
            gate = TreeGate(leaves, dim, descent="soft", temperature=0.3, seed=seed)
        case "tree-layers":
            gate = TreeGate(leaves, dim, layers=(0, 1), descent="soft", temperature=0.3, seed=seed)
        case "tree-late":
            gate = TreeGate(leaves, dim, layers=(1,), seed=seed)
        case "tree-sequence":
            gate = TreeGate(leaves, dim, scope="sequence", seed=seed)
        case "tree-sequence-soft":
            gate = TreeGate(leaves, dim, scope="sequence", descent="soft", temperature=0.3, seed=seed)
        case "xlora":
            gate = XLora(4, dim, top_k=2, temperature=0.3, seed=seed)
        case "arrow":
            gate = Arrow(bank, top_k=2)
        case "spectr":
            gate = Spectr(bank, top_k=2)
        case "phatgoose":
            gates = {s: torch.randn(len(bank), s.in_features, generator=rng) for s in bank.sites}
            gate = Phatgoose(bank, gates, top_k=2)
        case "smear":
            gate = Smear(4, dim, seed=seed)
            torch.nn.init.normal_(gate.weight_KH, generator=rng)
    return gate.eval()
