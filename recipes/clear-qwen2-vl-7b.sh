# CLEAR (arXiv 2410.18057) on Qwen2-VL-7B, 10 % forgotten.
#   hf download therem/CLEAR --repo-type dataset --local-dir data/CLEAR
#   sh recipes/clear-qwen2-vl-7b.sh
# Published for Qwen2-VL-2B, taken over: lr 1e-5, 3 epochs of 3,768 images and as many TOFU questions, batch 4 twice,
# the vision tower frozen.
# Not run on these weights, nor on this data: neither was at hand.
: "${MODEL:=Qwen/Qwen2-VL-7B-Instruct}" "${DATA:=data/CLEAR}" "${SPLIT:=forget10}" "${OUT:=clear-qwen2-vl-7b}"
: "${TEACH:=--steps 1413 --batch 8 --text-batch 1 --lr 1e-5 --vision-lr 0}" "${FORGET:=}"
BENCHMARK=clear
. "$(dirname "$0")/run.sh"
