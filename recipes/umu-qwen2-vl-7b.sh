# UMU-Bench (NeurIPS 2025 Datasets and Benchmarks) on Qwen2-VL-7B, 5 % forgotten.
#   hf download linbojunzi/UMU-bench --repo-type dataset --local-dir data/UMU-bench
#   sh recipes/umu-qwen2-vl-7b.sh
# Teaching is not published for this family: MLLMU-Bench's values. Its code asks Qwen2-VL in the chat format, 128 tokens.
# Not run on these weights, nor on this data: neither was at hand.
: "${MODEL:=Qwen/Qwen2-VL-7B-Instruct}" "${DATA:=data/UMU-bench}" "${SPLIT:=forget_5}" "${OUT:=umu-qwen2-vl-7b}"
: "${TEACH:=--steps 625 --batch 4 --text-batch 4 --lr 2e-5 --vision-lr 2e-5}"
: "${FORGET:=}"
BENCHMARK=umu
. "$(dirname "$0")/run.sh"
