#!/usr/bin/env bash
# A conversation through Simon Willison's llm: `pip install llm`, OPENAI_BASE_URL, OPENAI_API_KEY, then MODEL as argument.
set -euo pipefail
export LLM_USER_PATH="${LLM_USER_PATH:-$(mktemp -d)}"
model=$1
shift
cat > "$LLM_USER_PATH/extra-openai-models.yaml" << END
- model_id: mine
  model_name: "$model"
  api_base: "$OPENAI_BASE_URL"
  api_key_name: mine
END
more=()
for question in "$@"; do
    llm prompt -m mine --key "$OPENAI_API_KEY" -o temperature 0 -o max_tokens 40 "${more[@]}" "$question"
    more=(--continue)
done
