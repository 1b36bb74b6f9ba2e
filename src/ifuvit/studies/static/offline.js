// The form without a server: answers are kept in the browser, and saved to a file.
"use strict";
(() => {
  const facts = document.getElementById("study").dataset, total = Number(facts.total);
  const place = `study ${facts.study} ${facts.rater}`;
  const pages = new Map([...document.querySelectorAll(".page")].map((page) => [page.dataset.page, page]));
  const header = document.querySelector("header");
  let kept = { agreed: null, log: [] }, at = "start";
  try { kept = JSON.parse(localStorage.getItem(place)) ?? kept; } catch { /* nothing is kept */ }
  const log = kept.log;
  const keep = () => { try { localStorage.setItem(place, JSON.stringify(kept)); } catch { /* a private window: it lasts as long as the page */ } };
  const now = () => new Date().toISOString().replace("Z", "+00:00");

  const last = () => new Map(log.map((entry) => [entry.task, entry]));
  const next = (start) => {
    const given = last();
    for (let step = 0; step < total; step++) if (!given.has((start + step) % total)) return (start + step) % total;
    return "end";
  };

  function show(where) {
    at = where;
    for (const [key, page] of pages) page.hidden = key !== String(where);
    header.hidden = where === "start";
    const done = last().size;
    header.querySelector("progress").value = done;
    header.querySelector("[data-place]").textContent = where === "end" ? `${done} of ${total}` : `Task ${where + 1} of ${total}`;
    header.querySelector("[data-go=forward]").hidden = where === "end" || !last().has(where);
    document.querySelector(".keys").hidden = typeof where !== "number";
    if (where === "end") document.querySelector("[data-left]").textContent = done < total ? `${total - done} tasks are left.` : "";
    if (typeof where === "number") restore(where);
    scrollTo(0, 0);
    document.dispatchEvent(new Event("study:task"));
  }

  function restore(task) {
    const entry = last().get(task), page = pages.get(String(task));
    for (const button of page.querySelectorAll("button[value]")) {
      const given = entry && (button.name === "count" ? button.value === String(entry.count) : button.value === entry.status);
      button.classList.toggle("given", Boolean(given) && button.value !== "answered");
    }
    if (entry?.count > 9) page.querySelector("input[name=count]").value = entry.count;
    if (!entry?.ranks) return;
    const form = page.querySelector("form");
    form.elements.ties.checked = new Set(entry.ranks).size < entry.ranks.length;
    entry.ranks.forEach((rank, slot) => { form.querySelector(`input[name=rank${slot}][value="${rank}"]`).checked = true; });
    form.elements.ties.dispatchEvent(new Event("change"));
  }

  document.addEventListener("submit", (event) => {
    const form = event.target, section = form.closest(".task");
    if (!section) return;
    event.preventDefault();
    const fields = new FormData(form), pressed = event.submitter, task = Number(section.dataset.task);
    if (pressed?.name) fields.set(pressed.name, pressed.value);
    const entry = { task, status: fields.get("status") ?? "answered", count: null, ranks: null };
    entry.seconds = Number(fields.get("seconds")) || null;
    entry.at = now();
    if (entry.status === "answered" && section.matches(".count")) entry.count = Number(fields.get("count"));
    else if (entry.status === "answered") {
      const chosen = [...form.querySelectorAll(".slot input:checked")].map((input) => Number(input.value));
      entry.ranks = chosen.map((rank) => 1 + chosen.filter((other) => other < rank).length);
    }
    log.push(entry);
    keep();
    show(next(task + 1));
  });

  const COLUMNS = ["study", "rater", "token", "agreed", "task", "status", "count", "ranks", "seconds", "at"];
  const cell = (value) => (value === null ? "" : Array.isArray(value) ? value.join(" ") : String(value));
  function save(format) {
    const who = { study: facts.study, rater: facts.rater, token: facts.token, agreed: kept.agreed };
    const text = format === "json"
      ? JSON.stringify({ ...who, answers: log }, null, 1) + "\n"
      : [COLUMNS, ...log.map((entry) => COLUMNS.map((column) => cell({ ...who, ...entry }[column])))].map((row) => row.join(",") + "\n").join("");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: format === "json" ? "application/json" : "text/csv" }));
    link.download = `answers-${facts.rater}.${format}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  for (const button of document.querySelectorAll("[data-save]")) button.addEventListener("click", () => save(button.dataset.save));
  for (const button of document.querySelectorAll("[data-go]")) {
    button.addEventListener("click", () => {
      if (button.dataset.go === "next") {
        kept.agreed ??= now();
        keep();
        show(next(0));
      }
      else if (button.dataset.go === "forward") show(at + 1 < total ? at + 1 : "end");
      else show(at === "end" ? total - 1 : at === 0 ? "start" : at - 1);
    });
  }
  show("start");
  if (kept.agreed) pages.get("start").querySelector("[data-go=next]").textContent = "Continue";
})();
