// The form without a server: answers are kept in the browser, and saved to a file.
"use strict";
(() => {
  const facts = document.getElementById("study").dataset, total = Number(facts.total);
  const texts = JSON.parse(document.body.dataset.texts);
  const fill = (key, values = {}) => texts[key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
  const place = `study ${facts.study} ${facts.rater}`;
  const pages = new Map([...document.querySelectorAll(".page")].map((page) => [page.dataset.page, page]));
  const header = document.querySelector("header"), saved = header.querySelector(".saved");
  let kept = { agreed: null, log: [] }, at = "start", last = null;  // the page, and the task that was answered just before
  try { kept = JSON.parse(localStorage.getItem(place)) ?? kept; } catch { /* nothing is kept */ }
  const log = kept.log;
  const keep = () => { try { localStorage.setItem(place, JSON.stringify(kept)); } catch { /* a private window: it lasts as long as the page */ } };
  const now = () => new Date().toISOString().replace("Z", "+00:00");

  const answers = () => {
    const given = new Map(log.map((entry) => [entry.task, entry]));
    for (const [task, entry] of given) if (entry.status === "undone") given.delete(task);
    return given;
  };
  const next = (start) => {
    const given = answers();
    for (let step = 0; step < total; step++) if (!given.has((start + step) % total)) return (start + step) % total;
    return "end";
  };
  const words = (entry) => {
    if (entry.status !== "answered") return fill(entry.status);
    if (entry.count !== null) return entry.count;
    if (entry.ratings) return entry.ratings.join(", ");
    if (facts.kind !== "choice") return null;
    if (entry.ranks[0] === entry.ranks[1]) return fill("equal");
    return pages.get(String(entry.task)).querySelectorAll(".slot .name")[entry.ranks.indexOf(1)].textContent;
  };

  function show(where) {
    at = where;
    for (const [key, page] of pages) page.hidden = key !== String(where);
    header.hidden = where === "start";
    const given = answers(), done = given.size;
    header.querySelector("progress").value = done;
    header.querySelector("[data-place]").textContent = where === "end" ? `${done} / ${total}` : pages.get(String(where)).dataset.place ?? "";
    header.querySelector("[data-go=forward]").hidden = where === "end" || !given.has(where);
    saved.hidden = last === null;
    if (last !== null) {
      const answer = words(given.get(last));
      saved.querySelector("[role=status]").textContent = answer === null ? fill("saved plain") : fill("saved", { answer });
    }
    document.querySelector(".keys").hidden = typeof where !== "number";
    if (where === "end") {
      document.querySelector("[data-left]").textContent = done < total ? fill("not finished text", { left: total - done, total }) : "";
    }
    if (typeof where === "number") restore(where);
    scrollTo(0, 0);
    document.dispatchEvent(new Event("study:task"));
  }

  function restore(task) {
    const entry = answers().get(task), page = pages.get(String(task)), form = page.querySelector("form");
    const value = (button) => {
      if (button.name === "count") return String(entry.count);
      if (button.name === "choice") return entry.ranks && (entry.ranks[0] === entry.ranks[1] ? "equal" : "AB"[entry.ranks.indexOf(1)]);
      return entry.status === "answered" ? null : entry.status;
    };
    for (const button of page.querySelectorAll("button[value]")) button.classList.toggle("given", Boolean(entry) && button.value === value(button));
    if (form.elements.more) form.elements.more.value = entry?.count > 9 ? entry.count : "";
    if (form.elements.comment) form.elements.comment.value = entry?.comment ?? "";
    const check = (name, one) => {
      for (const input of form.querySelectorAll(`input[name=${name}]`)) input.checked = input.value === String(one);
    };
    for (const input of form.querySelectorAll("input[type=radio]")) input.checked = false;
    entry?.ratings?.forEach((rating, number) => check(`rating${number}`, rating));
    if (!form.elements.ties) return;
    form.elements.ties.checked = Boolean(entry?.ranks) && new Set(entry.ranks).size < entry.ranks.length;
    entry?.ranks?.forEach((rank, slot) => check(`rank${slot}`, rank));
    form.elements.ties.dispatchEvent(new Event("change"));
  }

  document.addEventListener("submit", (event) => {
    const form = event.target, section = form.closest(".task");
    if (!section) return;
    event.preventDefault();
    const fields = new FormData(form), pressed = event.submitter, task = Number(section.dataset.task);
    if (pressed?.name) fields.set(pressed.name, pressed.value);
    const entry = { task, status: fields.get("status") ?? "answered", count: null, ranks: null, ratings: null };
    entry.comment = (fields.get("comment") ?? "").split(/\s+/).join(" ").trim() || null;
    entry.seconds = Number(fields.get("seconds")) || null;
    entry.at = now();
    if (entry.status === "answered") {
      if (section.matches(".count")) {
        entry.count = Number(fields.get("count") ?? (fields.get("more") || NaN));
        if (Number.isNaN(entry.count)) { form.elements.more.focus(); return; }
      } else if (section.matches(".rating")) {
        entry.ratings = [...form.querySelectorAll(".question input:checked")].map((input) => Number(input.value));
      } else if (section.matches(".choice")) entry.ranks = { A: [1, 2], B: [2, 1], equal: [1, 1] }[fields.get("choice")];
      else {
        const chosen = [...form.querySelectorAll(".slot input:checked")].map((input) => Number(input.value));
        entry.ranks = chosen.map((rank) => 1 + chosen.filter((other) => other < rank).length);
      }
    }
    log.push(entry);
    keep();
    last = task;
    show(next(task + 1));
  });

  const COLUMNS = ["study", "rater", "token", "agreed", "task", "status", "count", "ranks", "ratings", "comment", "seconds", "at"];
  const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const cell = (value) => (value === null || value === undefined ? "" : quoted(Array.isArray(value) ? value.join(" ") : String(value)));
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
      const undone = last;
      last = null;
      if (button.dataset.go === "next") {
        kept.agreed ??= now();
        keep();
        show(next(0));
      } else if (button.dataset.go === "undo") {
        log.push({ task: undone, status: "undone", count: null, ranks: null, ratings: null, comment: null, seconds: null, at: now() });
        keep();
        show(undone);
      } else if (button.dataset.go === "forward") show(at + 1 < total ? at + 1 : "end");
      else show(at === "end" ? total - 1 : at === 0 ? "start" : at - 1);
    });
  }
  show("start");
  const begin = pages.get("start").querySelector("[data-go=next]");
  if (kept.agreed) begin.textContent = begin.dataset.continue;
})();
