# MLLMU-Bench (arXiv 2410.22108) on LLaVA-1.5-7B, 10 % forgotten.
#   hf download MLLMMU/MLLMU-Bench --repo-type dataset --local-dir data/MLLMU-Bench
#   hf download MLLMMU/baseline_train_split --repo-type dataset --local-dir data/baseline_train_split
#   sh recipes/mllmu-llava-1.5-7b.sh
# Published for vanilla: lr 2e-5, 5 epochs of 500 images, batch 4, as LoRA (rank 16, alpha 16) whose names match the
# vision tower's q, k and v too, loss on every token. Here all weights are taught, on answers only; the tower at the same
# rate. MLLMMU/LLaVA_Vanilla is the authors' own: put it in place of $OUT/vanilla to compare with their figures.
# Not run on these weights, nor on this data: neither was at hand.
: "${MODEL:=llava-hf/llava-1.5-7b-hf}" "${DATA:=data/MLLMU-Bench}" "${SPLIT:=forget_10}" "${OUT:=mllmu-llava}"
: "${TEACH:=--steps 625 --batch 4 --lr 2e-5 --vision-lr 2e-5}" "${FORGET:=}"
BENCHMARK=mllmu
. "$(dirname "$0")/run.sh"
