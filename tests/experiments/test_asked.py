"""Right answers are those that greedy decoding gives under the adapter of each place."""

import weft
from weft.engine import Engine
from weft.experiments.dynamic.asked import rights, share_right
from weft.host import Host
from weft.tasks import Row, render
from weft.types import Bank, Mixture


def test_rights_are_greedy_answers_under_the_adapter_of_each_place() -> None:
    host = Host.from_pretrained("weft/letters", dtype="float32")
    adapters = [weft.load(f"weft/letters-adapters/{name}") for name in ("reverse", "upper")]
    words, rows = ["canoe", "planet"], []
    for adapter in adapters:
        mixture = Mixture.rows(Bank.stack([adapter]), [0, 0])
        said = Engine(host).generate(words, mixture=mixture, max_new_tokens=12)
        rows.append([Row(prompt=word, completion=text) for word, text in zip(words, said, strict=True)])
    assert rows[0][0].completion == "eonac"
    rows[1][1] = Row(prompt=words[1], completion=f"{rows[1][1].completion[:-1]}x")
    asked = [[render(host.tokenizer, row) for row in several] for several in rows]
    assert rights(host, adapters, asked) == [1.0, 0.5]
    assert rights(host, adapters[::-1], asked) == [0.0, 0.0]
    assert share_right(host, adapters, asked) == 0.75
