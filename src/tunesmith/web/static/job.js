"use strict";
// A job as it goes on: its curves, numbers and words come as server-sent events.

const job = find("job");
const steps = new Map(); // step -> what is known of it
let charts = [];

const color = (name) => getComputedStyle(root).getPropertyValue(name).trim();
const HEIGHT = 230; // px of a chart
const SMOOTH_FROM = 60; // points, from which on the training curve is drawn smoothed too

// The mean of each point's neighbours, a fortieth of the curve to either side.
function smoothed(values) {
  const reach = Math.max(2, Math.round(values.length / 40));
  return values.map((value, i) => {
    const near = values.slice(Math.max(0, i - reach), i + reach + 1).filter((one) => one != null);
    return near.length ? near.reduce((sum, one) => sum + one, 0) / near.length : null;
  });
}

function dataOf(train, valid) {
  const known = [...steps.values()].sort((a, b) => a.step - b.step);
  const values = known.map((one) => one[train] ?? null);
  const lines = isLong() ? [values, smoothed(values)] : [values];
  return [known.map((one) => one.step), ...lines, known.map((one) => one[valid] ?? null)];
}

const isLong = () => steps.size >= SMOOTH_FROM;

function chart(id, train, valid, digits, start) {
  const place = find(id);
  const accent = color("--accent");
  const number = (plot, value) => (value == null ? "–" : value.toFixed(digits));
  const axis = { stroke: color("--soft"), grid: { stroke: color("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui" };
  const training = { label: "training", stroke: accent, width: 1.5, value: number, points: { show: steps.size < 3 } };
  if (isLong()) training.stroke = `color-mix(in srgb, ${accent} 35%, transparent)`;
  const series = [{ label: "step", value: (plot, value) => value ?? "–" }, training];
  if (isLong()) series.push({ label: "smoothed", stroke: accent, width: 2, value: number, points: { show: false } });
  series.push({ label: "validation", stroke: color("--good"), width: 2, spanGaps: true, points: { show: true, size: 5, fill: color("--good") }, value: number });
  const options = {
    width: place.clientWidth,
    height: HEIGHT,
    padding: [6, 12, 0, 0],
    cursor: { sync: { key: "steps" }, drag: { x: true, y: false } },
    scales: { x: { time: false }, y: { range: (plot, low, high) => (low == null ? [0, 1] : [Math.min(start ?? low, low), high === low ? high + 1 : high + 0.05 * (high - low)]) } },
    axes: [{ ...axis, size: 30, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 50000, 100000] }, { ...axis, size: 48 }],
    series,
  };
  const plot = new uPlot(options, dataOf(train, valid), place);
  return { plot, place, draw: () => plot.setData(dataOf(train, valid)) };
}

function drawAnew() {
  for (const one of charts) one.plot.destroy();
  charts = [chart("loss-chart", "train_loss", "valid_loss", 4), chart("accuracy-chart", "train_mean_token_accuracy", "valid_mean_token_accuracy", 3, 0)];
}

function show(id, value) {
  find(id).textContent = value;
}

function tell(news) {
  const before = steps.size;
  for (const one of news.steps) steps.set(one.step, one);
  const known = [...steps.values()].sort((a, b) => a.step - b.step);
  const last = known.at(-1);
  const valid = known.filter((one) => one.valid_loss != null).at(-1);
  if (last) {
    show("step", `${last.step.toLocaleString()} / ${last.total_steps.toLocaleString()}`);
    show("loss", last.train_loss == null ? "–" : last.train_loss.toFixed(3));
    show("valid", valid ? valid.valid_loss.toFixed(3) : "–");
    const recent = known.slice(-20);
    const pace = recent.reduce((sum, one) => sum + one.tokens, 0) / recent.reduce((sum, one) => sum + one.seconds, 0);
    if (Number.isFinite(pace)) show("pace", Math.round(pace).toLocaleString());
    find("progress").max = last.total_steps;
    find("progress").value = last.step;
  }
  show("left", news.left == null ? "–" : inWords(news.left));
  const state = find("state");
  state.className = `state ${news.state}`;
  state.textContent = news.state_words;
  find("said").textContent = news.sentence;
  find("try").hidden = news.state !== "succeeded";
  for (const button of document.querySelectorAll("[data-action]")) button.hidden = !news.actions.includes(button.dataset.action);
  if (news.checkpoints != null) {
    find("checkpoints").innerHTML = news.checkpoints; // the server's own, with everything in it escaped
  }
  for (const one of news.events) {
    const line = document.createElement("li");
    const time = document.createElement("time");
    time.textContent = new Date(one.created_at * 1000).toLocaleTimeString();
    const words = document.createElement("span");
    words.className = one.level;
    words.textContent = one.message;
    line.append(time, words);
    find("log").prepend(line);
  }
  const other = (before < 3) !== (steps.size < 3) || (before < SMOOTH_FROM) === isLong();
  if (!charts.length || other) drawAnew();
  else if (news.steps.length) for (const one of charts) one.draw();
}

let number = 0; // of the last event that was told

function listen() {
  const source = new EventSource(`/jobs/${job.dataset.id}/live?after=${number}`);
  source.onmessage = (event) => {
    const news = JSON.parse(event.data);
    number = news.number;
    tell(news);
    if (news.over) source.close();
  };
  source.onerror = () => {
    source.close();
    setTimeout(listen, 3000);
  };
}

for (const button of document.querySelectorAll("[data-action]")) {
  button.addEventListener("click", async () => {
    const action = button.dataset.action;
    if (action === "cancel" && !confirm("Cancel this job? It cannot go on afterwards.")) return;
    await orSay(() => ask("POST", `/v1/fine_tuning/jobs/${job.dataset.id}/${action}`));
    if (action === "resume") listen();
  });
}

addEventListener("theme", drawAnew);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAnew);
addEventListener("resize", () => {
  for (const one of charts) one.plot.setSize({ width: one.place.clientWidth, height: HEIGHT });
});
listen();
