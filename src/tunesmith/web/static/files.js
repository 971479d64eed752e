"use strict";
// Files: brought, looked at, and made a job of.

function send(file) {
  const sent = find("sent");
  const form = new FormData();
  form.append("purpose", "fine-tune");
  form.append("file", file);
  const request = new XMLHttpRequest(); // fetch tells nothing of how much has gone
  request.open("POST", "/v1/files");
  for (const [name, value] of Object.entries(asPage)) request.setRequestHeader(name, value);
  request.upload.onprogress = (event) => {
    sent.hidden = false;
    sent.max = event.total;
    sent.value = event.loaded;
  };
  const failed = (sentence) => {
    sent.hidden = true;
    find("said").textContent = sentence;
  };
  request.onerror = () => failed("The server could not be reached, or did not want the whole file.");
  request.onload = () => {
    let answer = {};
    try {
      answer = JSON.parse(request.responseText);
    } catch {
      return failed(`The server answered ${request.status}.`);
    }
    if (request.status === 200) location.href = `/files/${answer.id}`;
    else failed(request.status === 401 ? "Your session has ended. Log in again." : answer.error.message);
    return undefined;
  };
  find("said").textContent = "";
  request.send(form);
}

const drop = find("drop");
if (drop) {
  find("file").addEventListener("change", (event) => event.target.files.length && send(event.target.files[0]));
  for (const kind of ["dragover", "dragenter"]) drop.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
  for (const kind of ["dragleave", "drop"]) drop.addEventListener(kind, () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files.length > 1) find("said").textContent = "One file at a time.";
    else if (event.dataTransfer.files.length) send(event.dataTransfer.files[0]);
  });
}

// What is being checked is asked for until it is there.
async function lookAt(place) {
  const whole = place.id === "found";
  const base = whole ? `&base=${encodeURIComponent(find("base").value)}` : "";
  for (let wait = 300; ; wait = Math.min(3000, wait * 1.3)) {
    const answer = await fetch(`/files/${place.dataset.found}/found?${whole ? "whole=1" : "whole=0"}${base}`).catch(() => null);
    if (answer && answer.status === 200 && !answer.redirected) {
      const text = await answer.text();
      if (whole) place.innerHTML = text; // the server's own, with everything in it escaped
      else place.textContent = text;
      return;
    }
    if (answer && answer.status >= 400) {
      place.textContent = "It cannot be checked now.";
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, wait));
  }
}

for (const place of document.querySelectorAll("[data-found]")) if (place.dataset.found) lookAt(place);

find("base")?.addEventListener("change", () => {
  location.href = `${location.pathname}?base=${encodeURIComponent(find("base").value)}`;
});

const start = find("start");
start?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const given = Object.fromEntries(new FormData(start));
  const asked = { model: given.model, training_file: start.dataset.file };
  if (given.suffix) asked.suffix = given.suffix;
  if (given.n_epochs) asked.hyperparameters = { n_epochs: Number(given.n_epochs) };
  if (given.validation_file) asked.validation_file = given.validation_file;
  const job = await orSay(() => ask("POST", "/v1/fine_tuning/jobs", asked));
  if (job) location.href = `/jobs/${job.id}`;
});

document.querySelector("[data-delete-file]")?.addEventListener("click", async (event) => {
  if (!confirm("Delete this file? Jobs that were made of it keep what they need.")) return;
  if (await orSay(() => ask("DELETE", `/v1/files/${event.target.dataset.deleteFile}`))) location.href = "/files";
});
