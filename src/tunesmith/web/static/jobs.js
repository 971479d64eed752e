"use strict";
// Keeps the list of jobs as it is, while it is looked at.

const rows = find("rows");
let last = "";

async function look() {
  if (document.hidden || !rows) return;
  const answer = await fetch("/jobs/rows").catch(() => null);
  if (!answer || !answer.ok || answer.redirected) return;
  const text = await answer.text();
  if (text === last) return;
  const focused = document.activeElement?.getAttribute("href");
  rows.innerHTML = last = text; // the server's own, with everything in it escaped
  tellTimes();
  if (focused) rows.querySelector(`a[href="${focused}"]`)?.focus();
}

setInterval(look, 2000);
