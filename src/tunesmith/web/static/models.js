"use strict";
// Deletes a model, after a question.

for (const button of document.querySelectorAll("[data-delete]")) {
  button.addEventListener("click", async () => {
    const name = button.dataset.delete;
    if (!confirm(`Delete ${name}? Its job stays; the model cannot be brought back.`)) return;
    if (await orSay(() => ask("DELETE", `/v1/models/${encodeURIComponent(name)}`))) location.reload();
  });
}
