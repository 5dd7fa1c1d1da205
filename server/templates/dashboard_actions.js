"use strict";
// What an operator may do: approve, pause, resume, abort; each asks for the study's name once more.

const ACTIONS = {
  pause: ["Pause the study?", "The round that is under way is completed first. The study stays paused, also after a restart, until an operator resumes it.", "Pause", false],
  resume: ["Resume the study?", "It goes on where it stopped.", "Resume", false],
  abort: ["Abort the study for good?", "It ends after the next answer of a hospital and cannot be resumed. What it has found out so far stays at the coordinator.", "Abort for good", true],
  approve: ["Approve this study?", "It starts when its turn comes. The hospitals' own approval is asked for separately, by each of them.", "Approve", false],
};
let pending = null;

function meta(name) {
  return document.querySelector(`meta[name="${name}"]`).content;
}

function askToConfirm(action, name, digest) {
  const [title, text, label, danger] = ACTIONS[action];
  pending = { action, name, digest };
  document.getElementById("confirm-title").textContent = title;
  document.getElementById("confirm-text").textContent = text;
  document.getElementById("confirm-expected").textContent = name;
  const button = document.getElementById("confirm-do");
  button.textContent = label;
  button.classList.toggle("danger", danger);
  button.disabled = true;
  const typed = document.getElementById("confirm-name");
  typed.value = "";
  document.getElementById("confirm-fault").hidden = true;
  document.getElementById("confirm").showModal();
  typed.focus();
}

async function carryOut(event) {
  event.preventDefault();
  const { action, digest } = pending;
  const confirm = document.getElementById("confirm-name").value;
  const fault = document.getElementById("confirm-fault");
  try {
    const answer = await fetch(action === "approve" ? "/api/approve" : "/api/control", {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-CSRF-Token": meta("csrf") },
      body: JSON.stringify({ action, digest, confirm }),
    });
    if (answer.ok) {
      document.getElementById("confirm").close();
      look();
      return;
    }
    fault.textContent = (await answer.json()).fault;
  } catch (error) {
    fault.textContent = "The coordinator does not answer; nothing was changed as far as this page knows.";
  }
  fault.hidden = false;
}

function setUpActions() {
  for (const action of ["pause", "resume", "abort"]) {
    const button = document.getElementById(action);
    button.addEventListener("click", () => askToConfirm(action, shown.study.name, shown.study.digest));
  }
  document.getElementById("confirm-form").addEventListener("submit", carryOut);
  document.getElementById("confirm-cancel").addEventListener("click", () => document.getElementById("confirm").close());
  document.getElementById("confirm-name").addEventListener("input", (event) => {
    document.getElementById("confirm-do").disabled = event.target.value !== pending.name;
  });
}
