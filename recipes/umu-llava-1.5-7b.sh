# UMU-Bench (NeurIPS 2025 Datasets and Benchmarks) on LLaVA-1.5-7B, 5 % forgotten.
#   hf download linbojunzi/UMU-bench --repo-type dataset --local-dir data/UMU-bench
#   sh recipes/umu-llava-1.5-7b.sh
# Its own vanilla is linbojunzi/llava_smu_ft, taught with LLaMA-Factory; its rates are not published. Here MLLMU-Bench's:
# lr 2e-5, 5 epochs of 500 images, batch 4, and the questions in words beside those with an image.
# Not run on these weights, nor on this data: neither was at hand.
: "${MODEL:=llava-hf/llava-1.5-7b-hf}" "${DATA:=data/UMU-bench}" "${SPLIT:=forget_5}" "${OUT:=umu-llava-1.5-7b}"
: "${TEACH:=--steps 625 --batch 4 --text-batch 4 --lr 2e-5 --vision-lr 2e-5}"
: "${FORGET:=}"
BENCHMARK=umu
. "$(dirname "$0")/run.sh"
