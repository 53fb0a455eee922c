# CLEAR (arXiv 2410.18057) on LLaVA-1.5-7B, 10 % forgotten.
#   hf download therem/CLEAR --repo-type dataset --local-dir data/CLEAR
#   sh recipes/clear-llava-1.5-7b.sh
# Published: lr 1e-5, 3 epochs of 3,768 images and as many TOFU questions, batch 4 twice, LoRA of rank 8, the vision
# tower frozen. Here all weights but the tower's are taught.
# Not run on these weights, nor on this data: neither was at hand.
: "${MODEL:=llava-hf/llava-1.5-7b-hf}" "${DATA:=data/CLEAR}" "${SPLIT:=forget10}" "${OUT:=clear-llava-1.5-7b}"
: "${TEACH:=--steps 1413 --batch 8 --text-batch 1 --lr 1e-5 --vision-lr 0}" "${FORGET:=}"
BENCHMARK=clear
. "$(dirname "$0")/run.sh"
