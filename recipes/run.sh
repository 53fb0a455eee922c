# Teach vanilla and gold, forget, evaluate by both protocols. Sourced by the recipes beside it, which say of what.
# Any variable can be given from outside: MODEL=… DATA=… SPLIT=… OUT=… TEACH="--steps 10" sh recipes/NAME.sh
# After an interruption give the same command again: outputs are whole or not there, and what is there is not made anew.
set -eu
BENCH="--benchmark $BENCHMARK --source $DATA --split $SPLIT"
GIVEN="MODEL=$MODEL DATA=$DATA SPLIT=$SPLIT TEACH=$TEACH FORGET=$FORGET"

if [ -e "$OUT/given" ] && [ "$(cat "$OUT/given")" != "$GIVEN" ]; then
  echo "$OUT was begun with $(cat "$OUT/given"). Give the same again, or name another OUT." >&2
  exit 2
fi
mkdir -p "$OUT"
echo "$GIVEN" > "$OUT/given.new"
mv "$OUT/given.new" "$OUT/given"

once() { # OUTPUT COMMAND…
  if [ -e "$1" ]; then
    echo "$1 is there: go on"
  else
    place=$1
    shift
    "$@" --out "$place"
  fi
}

unsee data check "$DATA"
once "$OUT/images" unsee data folders $BENCH
once "$OUT/vanilla" unsee finetune --model "$MODEL" $BENCH $TEACH
once "$OUT/gold" unsee finetune --model "$MODEL" $BENCH $TEACH --without "$SPLIT"

IMAGES="--forget $OUT/images/forget --retain $OUT/images/retain --neutral $OUT/images/real"
# 3: done, but the target has not left. The evaluation tells how much of it stays.
once "$OUT/run" unsee forget --model "$OUT/vanilla" $IMAGES $FORGET || { code=$?; [ $code -eq 3 ] || exit $code; }
once "$OUT/unsee" unsee apply --model "$OUT/vanilla" --patch "$OUT/run/patch" --allow-failed  # it is measured in any case

for protocol in official strict; do
  once "$OUT/$protocol" unsee evaluate --model "$OUT/unsee" $BENCH --protocol $protocol \
    --compare "vanilla=$OUT/vanilla" "gold=$OUT/gold"
done
