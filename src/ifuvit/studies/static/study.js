// Keys, taps on images, dragging, enlarging and timing. Pages work without; what is chosen lives in the forms' own fields.
"use strict";
(() => {
  const shown = (element) => element.getClientRects().length > 0;
  const task = () => [...document.querySelectorAll(".task")].find(shown);
  const dialog = document.querySelector("dialog.large");

  // Seconds that the task was visible.
  let watched = 0, since = document.hidden ? null : performance.now();
  const pause = () => { if (since !== null) watched += performance.now() - since; since = null; };
  document.addEventListener("visibilitychange", () => { pause(); if (!document.hidden) since = performance.now(); });
  document.addEventListener("study:task", () => { watched = 0; since = performance.now(); });

  // A page from the browser's memory may be older than its answers.
  addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });

  for (const form of document.querySelectorAll(".task form")) {
    form.addEventListener("submit", (event) => {
      const parent = form.closest(".task");
      if (parent.dataset.sent) { event.preventDefault(); return; }
      if (!document.body.querySelector("#study")) parent.dataset.sent = "yes";
      pause();
      since = performance.now();
      form.elements.seconds.value = (watched / 1000).toFixed(2);
    });
  }

  // -------------------------------------------------------------------------------------------------------- enlarging
  const enlarge = (image) => {
    const large = dialog.querySelector("img");
    large.src = image.src;
    large.alt = image.alt;
    large.className = image.className;
    dialog.showModal();
  };
  dialog?.addEventListener("click", () => dialog.close());
  for (const link of document.querySelectorAll("[data-enlarge]")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      event.stopPropagation();
      enlarge(link.closest("figure").querySelector("img"));
    });
  }
  for (const image of document.querySelectorAll(".count img")) image.addEventListener("click", () => enlarge(image));

  // ---------------------------------------------------------------------------------------------------------- ranking
  const slots = (form) => [...form.querySelectorAll(".slot")];
  const rankOf = (slot) => Number(slot.querySelector("input:checked")?.value ?? 0);
  const name = (slot) => slot.querySelector("legend").textContent;
  const slotInFocus = (form) =>
    document.activeElement?.closest(".slot") ?? slots(form).find((slot) => !rankOf(slot)) ?? slots(form)[0];

  function refresh(form) {
    for (const place of form.querySelectorAll(".shelf li")) {
      const here = slots(form).filter((slot) => rankOf(slot) === Number(place.dataset.rank));
      place.querySelector("span").textContent = here.map((slot) => name(slot).replace("Image ", "")).join(" = ");
    }
  }

  function say(form, text) {
    const left = slots(form).filter((slot) => !rankOf(slot)).length;
    form.querySelector("[role=status]").textContent = `${text} ${left ? `${left} left to rank.` : "All ranked."}`;
    refresh(form);
  }

  // Without ties a rank belongs to one image: giving it to another one takes it away.
  function settle(form, slot) {
    const rank = rankOf(slot);
    if (form.elements.ties.checked || !rank) return;
    for (const other of slots(form)) {
      if (other !== slot && rankOf(other) === rank) other.querySelector("input:checked").checked = false;
    }
  }

  function give(form, slot, rank) {
    const input = slot.querySelector(`input[value="${rank}"]`);
    if (!input) return;
    input.checked = true;
    settle(form, slot);
    say(form, `${name(slot)}: rank ${rank}.`);
  }

  function tap(form, slot) {
    if (rankOf(slot)) {
      slot.querySelector("input:checked").checked = false;
      say(form, `${name(slot)}: no rank.`);
      return;
    }
    const taken = new Set(slots(form).map(rankOf));
    give(form, slot, slots(form).map((_, place) => place + 1).find((rank) => !taken.has(rank)));
  }

  function drag(form, slot, start) {
    const shelf = form.querySelector(".shelf");
    const under = (event) => document.elementFromPoint(event.clientX, event.clientY)?.closest(".shelf li");
    let moved = false;
    const move = (event) => {
      if (!moved && Math.hypot(event.clientX - start.clientX, event.clientY - start.clientY) < 8) return;
      moved = true;
      slot.classList.add("carried");
      for (const place of shelf.children) place.classList.toggle("over", place === under(event));
    };
    const stop = (event) => {
      removeEventListener("pointermove", move);
      removeEventListener("pointerup", stop);
      removeEventListener("pointercancel", stop);
      slot.classList.remove("carried");
      for (const place of shelf.children) place.classList.remove("over");
      if (!moved || event.type === "pointercancel") return;
      if (event.pointerType === "mouse") {
        // A click that comes of the same movement is no tap. (A finger's movement makes none.)
        const swallow = (click) => { click.stopPropagation(); click.preventDefault(); };
        addEventListener("click", swallow, { capture: true });
        setTimeout(() => removeEventListener("click", swallow, { capture: true }));
      }
      const place = under(event);
      if (place) give(form, slot, Number(place.dataset.rank));
    };
    addEventListener("pointermove", move);
    addEventListener("pointerup", stop);
    addEventListener("pointercancel", stop);
  }

  for (const form of document.querySelectorAll(".preference form")) {
    form.querySelector(".shelf").hidden = false;
    refresh(form);
    form.elements.ties.addEventListener("change", (event) => {
      if (!event.target.checked) for (const slot of slots(form)) settle(form, slot);
      say(form, event.target.checked ? "Ties on." : "Ties off.");
    });
    for (const slot of slots(form)) {
      slot.addEventListener("change", (event) => { settle(form, slot); say(form, `${name(slot)}: rank ${event.target.value}.`); });
      slot.querySelector("img").addEventListener("click", () => tap(form, slot));
      slot.addEventListener("pointerdown", (event) => {
        const held = event.target.closest(event.pointerType === "touch" ? "legend" : "legend, figure img");
        if (held && event.button === 0) drag(form, slot, event);
      });
    }
  }

  // ------------------------------------------------------------------------------------------------------------- keys
  const click = (selector) => { const found = [...document.querySelectorAll(selector)].find(shown); found?.click(); return found; };

  document.addEventListener("keydown", (event) => {
    const writing = event.target.matches?.("input:not([type=radio]):not([type=checkbox])");
    if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || writing || dialog?.open) return;
    const present = task(), key = event.key.toLowerCase();
    if (!present) return;
    const form = present.querySelector("form");
    let used = true;
    if (key === "b" || key === "n") used = click(`[data-key=${key}]`);
    else if (key === "z") enlarge((present.matches(".count") ? present : slotInFocus(form)).querySelector("img"));
    else if (present.matches(".count")) {
      if (/^[0-9]$/.test(key)) form.querySelector(`button[value="${key}"]`).click();
      else if (key === "c") form.querySelector("button[name=status]").click();
      else used = false;
    } else if (/^[1-9]$/.test(key) && Number(key) <= slots(form).length) {
      const slot = slotInFocus(form);
      give(form, slot, Number(key));
      const next = slots(form).find((other) => !rankOf(other));
      if (next) next.querySelector("input").focus({ preventScroll: true });
      else form.querySelector("button.main").focus({ preventScroll: true });
    } else if (key === "t") form.elements.ties.click();
    else if (key === "s") form.querySelector("button[value=skipped]").click();
    else if (key === "enter" && !event.target.closest("a, button, summary")) form.requestSubmit(form.querySelector("button.main"));
    else used = false;
    if (used) event.preventDefault();
  });
})();
