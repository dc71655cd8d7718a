from __future__ import annotations
import json
from aion_core.cli import main
from aion_core.tokenizers import TokenizerSet


def test_it_trains(tiny, capsys):
    tiny.write("a.npz", 200, keys=("left", "right"))
    tiny.write("b.npz", 200, 5)
    code = main(
        [
            "tokenizer",
            "train",
            str(tiny.data),
            "--out",
            str(tiny.out),
            "--config",
            str(tiny.config(steps=300)),
            "--json",
        ]
    )
    out = capsys.readouterr()
    print(out.err, out.out)
    assert code == 0
    found = json.loads(out.out)
    assert found["modalities"]["tiny_left"]["r2"] > 0.8
