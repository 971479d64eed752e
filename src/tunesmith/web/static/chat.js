"use strict";
// A conversation with one model, or with two side by side; each goes on from its own answers.

const said = { a: [], b: [] }; // the messages of each side
let under = []; // what ends the answers that are under way

const make = (tag, className, text = "") => {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
};

// The data of server-sent events, as they come.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ; ) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
  }
}

async function answer(side, model, place) {
  const card = make("article", "answer under-way");
  const text = make("div", "text");
  const footer = make("footer", "");
  card.append(make("header", "", model), text, footer);
  place.append(card);
  const control = new AbortController();
  under.push(control);
  const system = find("system").value.trim();
  const messages = [...(system ? [{ role: "system", content: system }] : []), ...said[side]];
  const body = { model, messages, stream: true, stream_options: { include_usage: true }, max_tokens: Number(find("most").value) || 256, temperature: Number(find("temperature").value) };
  const began = performance.now();
  let first = null;
  let usage = null;
  let why = "";
  try {
    const reply = await fetch("/v1/chat/completions", { method: "POST", signal: control.signal, headers: { ...asPage, "Content-Type": "application/json" }, body: JSON.stringify(body) });
    if (!reply.ok) throw new Error(await sentenceOf(reply));
    for await (const piece of events(reply.body)) {
      if (piece.error) throw new Error(piece.error.message);
      const choice = piece.choices?.[0];
      if (choice?.delta.content) {
        first ??= performance.now();
        text.textContent += choice.delta.content;
        const talk = find("talk");
        if (talk.scrollHeight - talk.scrollTop - talk.clientHeight < 160) talk.scrollTop = talk.scrollHeight;
      }
      if (choice?.finish_reason) why = choice.finish_reason;
      usage = piece.usage ?? usage;
    }
  } catch (error) {
    if (error.name === "AbortError") why = "stopped";
    else text.append(make("span", "failed", error instanceof TypeError ? "The server cannot be reached." : error.message));
  }
  card.classList.remove("under-way");
  under = under.filter((one) => one !== control);
  said[side].push({ role: "assistant", content: text.textContent });
  if (first !== null) {
    const seconds = (performance.now() - first) / 1000;
    const parts = [`first words after ${((first - began) / 1000).toFixed(2)} s`];
    if (usage?.completion_tokens > 1) parts.push(`${usage.completion_tokens} tokens, ${(usage.completion_tokens / Math.max(0.001, seconds)).toFixed(0)} a second`);
    if (why === "length") parts.push("cut off at the most tokens");
    if (why === "stopped") parts.push("stopped");
    footer.textContent = parts.join(" · ");
  }
}

function busy(is) {
  find("send").textContent = is ? "Stop" : "Send";
}

function stop() {
  for (const one of under) one.abort();
}

async function send() {
  if (under.length) return stop();
  const words = find("words").value.trim();
  if (!words) return undefined;
  find("words").value = "";
  grow();
  find("hint").hidden = true;
  const turn = make("section", "turn");
  const answers = make("div", "answers");
  turn.append(make("div", "asked", words), answers);
  find("talk").append(turn);
  find("talk").scrollTop = find("talk").scrollHeight;
  const sides = ["a", "b"].filter((side) => find(side).value);
  for (const side of sides) said[side].push({ role: "user", content: words });
  busy(true);
  await Promise.all(sides.map((side) => answer(side, find(side).value, answers)));
  busy(false);
  find("words").focus();
  return undefined;
}

function anew() {
  stop();
  said.a = [];
  said.b = [];
  for (const turn of document.querySelectorAll(".turn")) turn.remove();
  find("hint").hidden = false;
  find("words").focus();
}

function grow() {
  const words = find("words");
  words.style.height = "auto";
  words.style.height = `${words.scrollHeight + 2}px`;
}

find("ask").addEventListener("submit", (event) => { event.preventDefault(); send(); });
find("anew").addEventListener("click", anew);
for (const side of ["a", "b"]) find(side).addEventListener("change", anew);
find("words").addEventListener("input", grow);
find("words").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
});
addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  if (find("settings").open) find("settings").open = false;
  else stop();
});
addEventListener("click", (event) => {
  if (!find("settings").contains(event.target)) find("settings").open = false;
});
