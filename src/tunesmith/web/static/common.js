"use strict";
// What all pages share: light or dark, times in words, and how the API is asked.

const root = document.documentElement;
if (localStorage.getItem("theme")) root.dataset.theme = localStorage.getItem("theme");

const isDark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
const find = (id) => document.getElementById(id);

// Seconds in words, as in "3 min".
function inWords(seconds) {
  if (seconds < 60) return `${Math.max(0, Math.round(seconds))} s`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${(seconds / 3600).toFixed(seconds < 36000 ? 1 : 0)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

// Fills in what the server leaves to the visitor's clock.
function tellTimes() {
  for (const time of document.querySelectorAll("time[data-ago]")) {
    const moment = new Date(Number(time.dataset.ago) * 1000);
    const past = (Date.now() - moment) / 1000;
    time.textContent = past < 5 ? "now" : `${inWords(past)} ago`;
    time.title = moment.toLocaleString();
  }
}

// Asks the API as the visitor; the header tells a request of this page from one that another site had sent.
const asPage = { "X-Tunesmith-Page": "1" };

async function sentenceOf(answer) {
  if (answer.status === 401) return "Your session has ended. Log in again.";
  try {
    return (await answer.json()).error.message;
  } catch {
    return `The server answered ${answer.status}.`;
  }
}

async function ask(method, path, body) {
  const headers = body === undefined ? asPage : { ...asPage, "Content-Type": "application/json" };
  let answer;
  try {
    answer = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch {
    throw new Error("The server cannot be reached.");
  }
  if (!answer.ok) throw new Error(await sentenceOf(answer));
  return answer.json();
}

// Does something that may fail with a sentence, which is then shown.
async function orSay(work) {
  find("said").textContent = "";
  try {
    return await work();
  } catch (error) {
    find("said").textContent = error.message;
    return undefined;
  }
}

document.addEventListener("DOMContentLoaded", () => {
  tellTimes();
  setInterval(tellTimes, 5000);
  find("theme")?.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    localStorage.setItem("theme", root.dataset.theme);
    dispatchEvent(new Event("theme"));
  });
});
