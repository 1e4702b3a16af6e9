"""Train one LoRA on rows of a prompt and an answer, and save it as a PEFT folder: the whole loop on one page.

    python examples/train_lora.py rows.jsonl out/ --base weft/letters

A row is `{"prompt": ..., "completion": ...}`. Without a file, rows of one task of the letters world are made:
turn the text round. `weft train lora` is the same with packing, many adapters at once, resuming and a card.
"""

import argparse
import random

import torch
import torch.nn.functional as F

import weft
from weft.tasks import IGNORE, Row, collate, read_rows, render, render_prompt
from weft.types import Factors


def made_rows(count: int, seed: int) -> list[Row]:
    """Words of random letters, and what they are when turned round."""
    chance = random.Random(seed)
    words = ["".join(chance.choices("abcdefgh", k=chance.randint(2, 5))) for _ in range(count)]
    return [Row(word, word[::-1]) for word in words]


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train and save; returns the loss on held-out rows before and after, in nats per answer token."""
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=style)
    parser.add_argument("rows", nargs="?", help="a JSON Lines file; made-up rows unless given")
    parser.add_argument("output_dir", nargs="?", default="out")
    parser.add_argument("--base", default="weft/letters", help="a name, a folder or a hub id")
    parser.add_argument("--max-steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--r", type=int, default=8)
    parser.add_argument("--lora-alpha", type=float, default=16)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)

    # The base: frozen. Its sites are the matrices that an adapter may change.
    host = weft.Host.from_pretrained(args.base)
    pad_id = host.tokenizer.pad_token_id or 0

    # The data: every row as token ids, the last tenth held out.
    rows = read_rows(args.rows) if args.rows else made_rows(500, args.seed)
    encoded = [render(host.tokenizer, row, max_length=host.window) for row in rows]
    held = max(len(encoded) // 10, 1)
    train, test = encoded[:-held], encoded[-held:]
    if not train:
        parser.error("training needs two rows or more; one is held out")

    # The adapter: A is random and B is 0, so that training starts from the base itself.
    chance = torch.Generator().manual_seed(args.seed)
    scaling = args.lora_alpha / args.r
    a, b = {}, {}
    for site in host.sites:
        drawn = torch.rand(args.r, site.in_features, generator=chance) * 2 - 1
        a[site] = (drawn * site.in_features**-0.5).to(host.device).requires_grad_()
        b[site] = torch.zeros(site.out_features, args.r, device=host.device, requires_grad=True)

    def mixture() -> weft.Mixture:
        """A bank of one adapter, on every row of a batch."""
        bank = weft.Bank(
            names=("mine",),
            a={site: a_RI[None] for site, a_RI in a.items()},
            b={site: b_OR[None] * scaling for site, b_OR in b.items()},
        )
        return weft.Mixture.of(bank)

    def loss_on(chosen: list) -> torch.Tensor:
        """The mean over answer tokens; labels are IGNORE on prompts and padding."""
        ids_BT, mask_BT, labels_BT = (x.to(host.device) for x in collate(chosen, pad_id=pad_id))
        logits_BTV = host(ids_BT, mixture(), mask_BT=mask_BT).logits
        return F.cross_entropy(
            logits_BTV[:, :-1].flatten(0, 1).float(), labels_BT[:, 1:].flatten(), ignore_index=IGNORE
        )

    with torch.no_grad():
        before = float(loss_on(test))

    # The loop.
    optimizer = torch.optim.AdamW([*a.values(), *b.values()], lr=args.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=args.max_steps)
    order = random.Random(args.seed)
    for step in range(1, args.max_steps + 1):
        loss = loss_on(order.sample(train, min(args.batch_size, len(train))))
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*a.values(), *b.values()], 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 20 == 0 or step == args.max_steps:
            print(f"step {step}  loss {loss.item():.4f}", flush=True)

    with torch.no_grad():
        after = float(loss_on(test))
    print(f"held-out loss {before:.4f} -> {after:.4f}")

    # The adapter as a value, and as a folder that PEFT loads too.
    adapter = weft.Adapter(
        {site: Factors(a[site].detach().cpu(), b[site].detach().cpu(), scaling) for site in host.sites},
        base=host.fingerprint,
        name="mine",
        provenance={"base_model": args.base, "seed": args.seed},
    )
    weft.save(adapter, args.output_dir)

    # Generation begins with the ids that a row's prompt had in training.
    prompt_ids = render_prompt(host.tokenizer, rows[-1].question)
    said = weft.Engine(host).generate(prompt_ids, mixture=weft.Mixture.of(adapter), max_new_tokens=16)
    print(f"{rows[-1].prompt!r} -> {said!r}; the row says {rows[-1].completion!r}")
    return {"before": before, "after": after}


if __name__ == "__main__":
    main()
