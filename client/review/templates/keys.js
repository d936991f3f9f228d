// The keyboard of the worklist and of a study. Every key has a visible control that does the same.
"use strict";

const form = document.getElementById("verdict");
const map = document.getElementById("map");
const rows = [...document.querySelectorAll("tr[data-href]")];
let at = -1;

const choose = (decision) => {
  const radio = form && form.querySelector(`input[value="${decision}"]`);
  if (!radio) return;
  radio.checked = true;
  radio.dispatchEvent(new Event("change", { bubbles: true }));
  document.getElementById(decision === "agree" ? "give" : "reason").focus();
};

const toggle = () => {
  if (!map) return;
  const shown = map.getAttribute("src");
  map.setAttribute("src", map.dataset.other);
  map.dataset.other = shown;
  const original = shown.includes("/heatmap.png");
  document.getElementById("shown").textContent = original ? "Original image" : "Map over the image";
};

const move = (step) => {
  if (!rows.length) return;
  if (at >= 0) rows[at].classList.remove("here");
  at = Math.min(rows.length - 1, Math.max(0, at + step));
  rows[at].classList.add("here");
  rows[at].querySelector("a").focus();
};

for (const one of document.querySelectorAll("form.verdict")) {
  one.addEventListener("change", () => {
    const decision = new FormData(one).get("decision");
    one.dataset.decision = decision || "";
    one.querySelector("[name=reason]").required = decision === "correct" || decision === "reject";
  });
  one.addEventListener("submit", () => { one.querySelector("button").disabled = true; });
}
if (map) map.addEventListener("click", toggle);
for (const row of rows) row.addEventListener("click", () => { location.href = row.dataset.href; });

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches("input:not([type=radio]), textarea");
  const listing = event.target.matches("select");
  if (typing) return;
  if (event.key === "Enter" && form && listing) { form.requestSubmit(); event.preventDefault(); return; }
  if (listing) return;
  const acts = { a: () => choose("agree"), c: () => choose("correct"), r: () => choose("reject"), o: toggle,
    j: () => move(1), k: () => move(-1), Escape: () => { if (!rows.length) location.href = "/"; } };
  const act = acts[event.key];
  if (act) { act(); event.preventDefault(); }
});
