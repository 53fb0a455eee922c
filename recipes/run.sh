# Teach vanilla and gold, forget, evaluate by both protocols. Sourced by the recipes beside it, which say of what.
# Any variable can be given from outside: MODEL=… DATA=… SPLIT=… OUT=… TEACH="--steps 10" sh recipes/NAME.sh
set -eu
BENCH="--benchmark $BENCHMARK --source $DATA --split $SPLIT"

unsee data check "$DATA"
unsee data folders $BENCH --out "$OUT/images"
unsee finetune --model "$MODEL" $BENCH $TEACH --out "$OUT/vanilla"
unsee finetune --model "$MODEL" $BENCH $TEACH --without "$SPLIT" --out "$OUT/gold"

IMAGES="--forget $OUT/images/forget --retain $OUT/images/retain --neutral $OUT/images/real"
unsee forget --model "$OUT/vanilla" $IMAGES $FORGET --out "$OUT/run"
unsee apply --model "$OUT/vanilla" --patch "$OUT/run/patch" --out "$OUT/unsee"

for protocol in official strict; do
  unsee evaluate --model "$OUT/unsee" $BENCH --protocol $protocol \
    --compare "vanilla=$OUT/vanilla" "gold=$OUT/gold" --out "$OUT/$protocol"
done
