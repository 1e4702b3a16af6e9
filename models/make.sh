#!/bin/sh
# Make the embedded models again, from nothing: four to five hours on two cores.
# Each step continues where it stopped; runs/ keeps the recipes, metrics and checkpoints.
set -eu
cd "$(dirname "$0")/.."
weft=.venv/bin/weft

place() {  # SOURCE NAME
    rm -rf "models/$2"
    cp -R "$1" "models/$2"
}

$weft train base recipes/letters/base.yaml
place runs/letters-base/model letters
$weft train hyper recipes/letters/t2l.yaml
short=runs/letters-t2l-wordings-short
$weft train hyper recipes/letters/t2l_wordings.yaml "soup=[]" --run.max-steps 1000 --run.output-dir $short
$weft train hyper recipes/letters/t2l_wordings.yaml
place runs/letters-t2l-wordings/soup letters-t2l
$weft train lora recipes/letters/lora.yaml
place runs/letters-lora/adapters letters-adapters
$weft train lora recipes/letters/multitask.yaml
place runs/letters-multitask/adapters/multitask letters-multitask
$weft train shift recipes/letters/shift.yaml
place runs/letters-shift/shift letters-shift
$weft train context recipes/letters/words.yaml
place runs/letters-words/context letters-words
$weft train mix recipes/letters/mix.yaml
place runs/letters-mix/mix letters-mix
$weft train hyper recipes/functions/t2l.yaml
place runs/functions-t2l/hypernetwork smollm2-t2l
$weft train library recipes/functions/adapters.yaml
mkdir -p models/smollm2-adapters
for name in as_json_1 date_dmy_1 field_commas_1 json_keys mail_domain message_product \
    note_date pair_value_2 path_ext phone_digits_1 price_currency_1 url_host; do
    place runs/functions-adapters/adapters/$name smollm2-adapters/$name
done
$weft experiment zero-shot recipes/functions/zero_shot.yaml
$weft eval recipes/letters/eval.yaml --output docs/results/letters.md
