# MLLMU-Bench (arXiv 2410.22108) on Qwen2-VL-7B, 10 % forgotten.
#   hf download MLLMMU/MLLMU-Bench --repo-type dataset --local-dir data/MLLMU-Bench
#   hf download MLLMMU/baseline_train_split --repo-type dataset --local-dir data/baseline_train_split
#   sh recipes/mllmu-qwen2-vl-7b.sh
# Not published for this family: LLaVA's values (lr 2e-5, 5 epochs of 500 images, batch 4), and the official prompts in
# the model's own chat format, without examples.
# Not run on these weights, nor on this data: neither was at hand.
: "${MODEL:=Qwen/Qwen2-VL-7B-Instruct}" "${DATA:=data/MLLMU-Bench}" "${SPLIT:=forget_10}" "${OUT:=mllmu-qwen2-vl-7b}"
: "${TEACH:=--steps 625 --batch 4 --lr 2e-5 --vision-lr 2e-5}" "${FORGET:=}"
BENCHMARK=mllmu
. "$(dirname "$0")/run.sh"
