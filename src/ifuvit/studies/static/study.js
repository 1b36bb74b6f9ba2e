// Waiting for images, keys, taps on images, dragging, enlarging and timing. Pages work without; what is chosen lives in the forms' own
// fields.
"use strict";
(() => {
  const MOMENT = 500;  // milliseconds from the images' appearance in which nobody can have looked: a second click, not an answer
  const texts = JSON.parse(document.body.dataset.texts);
  const fill = (key, values = {}) => texts[key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
  const shown = (element) => element.getClientRects().length > 0;
  const task = () => [...document.querySelectorAll(".task")].find(shown);
  const dialog = document.querySelector("dialog.large");

  // ---------------------------------------------------------------------------------- ready: the images are there, and a moment passed
  let ready = false, timer = null, watched = 0, since = null, clock = false;
  const pause = () => { if (since !== null) watched += performance.now() - since; since = null; };
  const resume = () => { if (clock && since === null && !document.hidden) since = performance.now(); };
  document.addEventListener("visibilitychange", () => { pause(); resume(); });

  function wait() {
    const section = task(), images = section ? [...section.querySelectorAll(".images img")] : [];
    clearTimeout(timer);
    [ready, watched, since, clock] = [false, 0, null, false];
    if (!section) return;
    section.dataset.waiting = "";
    const look = () => {
      if (section !== task() || clock) return;
      section.querySelector(".trouble").hidden = !images.some((one) => one.complete && !one.naturalWidth);
      if (!images.every((one) => one.complete && one.naturalWidth)) return;
      clock = true;
      resume();
      timer = setTimeout(() => { ready = true; delete section.dataset.waiting; }, MOMENT);
      for (const source of (document.querySelector("main").dataset.ahead ?? "").split(" ")) if (source) new Image().src = source;
    };
    for (const image of images) {
      image.addEventListener("load", look);
      image.addEventListener("error", look);
    }
    look();
  }
  document.addEventListener("study:task", wait);
  wait();

  const early = (event) => {
    if (ready || !event.target.closest?.(".task") || event.target.closest("[data-again]")) return;
    event.preventDefault();
    event.stopImmediatePropagation();
  };
  for (const kind of ["click", "submit", "pointerdown"]) document.addEventListener(kind, early, { capture: true });
  for (const button of document.querySelectorAll("[data-again]")) {
    button.addEventListener("click", () => {
      for (const image of task().querySelectorAll(".images img")) if (!image.naturalWidth) image.src = image.getAttribute("src");
      button.closest(".trouble").hidden = true;
    });
  }

  // A page from the browser's memory may be older than its answers.
  addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });

  for (const form of document.querySelectorAll(".task form")) {
    form.addEventListener("submit", (event) => {
      const parent = form.closest(".task");
      if (parent.dataset.sent) { event.preventDefault(); return; }
      if (!document.body.querySelector("#study")) parent.dataset.sent = "yes";
      pause();
      resume();
      form.elements.seconds.value = (watched / 1000).toFixed(2);
    });
  }

  // -------------------------------------------------------------------------------------------------------- enlarging
  let large = null, zoom = 1;  // which image is enlarged; how many times the size at which all of it is seen
  function size(at) {
    const frame = dialog.querySelector(".frame"), image = frame.querySelector("img");
    const before = image.getBoundingClientRect(), box = frame.getBoundingClientRect();
    const [x, y] = at ?? [box.left + box.width / 2, box.top + box.height / 2];
    const part = [(x - before.left) / (before.width || 1), (y - before.top) / (before.height || 1)];
    image.style.width = `${Math.min(frame.clientWidth, frame.clientHeight) * zoom}px`;
    const after = image.getBoundingClientRect();
    frame.scrollLeft += after.left + part[0] * after.width - x;
    frame.scrollTop += after.top + part[1] * after.height - y;
  }
  const enlarge = (image) => {
    large = image;
    const copy = dialog.querySelector("img");
    copy.src = image.src;
    copy.alt = image.alt;
    copy.className = image.className;
    dialog.querySelector("[data-name]").textContent = image.alt;
    const alone = task().querySelectorAll(".images img").length < 2;
    for (const button of dialog.querySelectorAll("[data-turn]")) button.hidden = alone;
    if (!dialog.open) dialog.showModal();
    zoom = 1;
    size();
  };
  if (dialog) {
    dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close());
    dialog.querySelector(".frame").addEventListener("click", (event) => {
      if (event.target.tagName !== "IMG") { dialog.close(); return; }
      zoom = zoom < 8 ? 2 * zoom : 1;
      size([event.clientX, event.clientY]);
    });
    for (const button of dialog.querySelectorAll("[data-zoom]")) {
      button.addEventListener("click", () => { zoom = Math.min(Math.max(zoom * 2 ** Number(button.dataset.zoom), 1), 8); size(); });
    }
    for (const button of dialog.querySelectorAll("[data-turn]")) {
      button.addEventListener("click", () => {
        const images = [...task().querySelectorAll(".images img")];
        enlarge(images[(images.indexOf(large) + Number(button.dataset.turn) + images.length) % images.length]);
      });
    }
    addEventListener("resize", () => { if (dialog.open) size(); });
  }
  for (const link of document.querySelectorAll("[data-enlarge]")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      event.stopPropagation();
      enlarge(link.closest("figure").querySelector("img"));
    });
  }
  for (const image of document.querySelectorAll(".count img, .rating img, .choice img")) image.addEventListener("click", () => enlarge(image));

  // ---------------------------------------------------------------------------------------------------------- ranking
  const slots = (form) => [...form.querySelectorAll(".slot")];
  const rankOf = (slot) => Number(slot.querySelector("input:checked")?.value ?? 0);
  const name = (slot) => slot.querySelector("legend").textContent;

  function refresh(form) {
    for (const place of form.querySelectorAll(".shelf li")) {
      const here = slots(form).filter((slot) => rankOf(slot) === Number(place.dataset.rank));
      place.querySelector("span").textContent = here.map((slot) => name(slot).split(" ").pop()).join(" = ");
    }
  }

  function say(form, text) {
    const left = slots(form).filter((slot) => !rankOf(slot)).length;
    form.querySelector("[role=status]").textContent = `${text} ${left ? fill("left to rank", { left }) : fill("all ranked")}`;
    refresh(form);
  }

  // Without ties a rank belongs to one image: giving it to another one takes it away.
  function settle(form, slot) {
    const rank = rankOf(slot);
    if (form.elements.ties.checked || !rank) return;
    for (const other of slots(form)) {
      if (other !== slot && rankOf(other) === rank) other.querySelector("input:checked").checked = false;
    }
    // What is left goes to who is left.
    const left = slots(form).filter((other) => !rankOf(other)), taken = new Set(slots(form).map(rankOf));
    const free = slots(form).map((_, place) => place + 1).filter((one) => !taken.has(one));
    if (left.length === 1 && free.length === 1) left[0].querySelector(`input[value="${free[0]}"]`).checked = true;
  }

  function give(form, slot, rank) {
    const input = slot.querySelector(`input[value="${rank}"]`);
    if (!input) return;
    input.checked = true;
    settle(form, slot);
    say(form, fill("ranked", { name: name(slot), rank }));
  }

  function tap(form, slot) {
    if (rankOf(slot)) {
      slot.querySelector("input:checked").checked = false;
      say(form, fill("no rank", { name: name(slot) }));
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
      shelf.classList.add("reachable");  // stays in sight, over the images, as long as something is carried
      for (const place of shelf.children) place.classList.toggle("over", place === under(event));
    };
    const stop = (event) => {
      removeEventListener("pointermove", move);
      removeEventListener("pointerup", stop);
      removeEventListener("pointercancel", stop);
      const place = moved && event.type !== "pointercancel" ? under(event) : null;
      slot.classList.remove("carried");
      shelf.classList.remove("reachable");
      for (const one of shelf.children) one.classList.remove("over");
      if (!moved || event.type === "pointercancel") return;
      if (event.pointerType === "mouse") {
        // A click that comes of the same movement is no tap. (A finger's movement makes none.)
        const swallow = (click) => { click.stopPropagation(); click.preventDefault(); };
        addEventListener("click", swallow, { capture: true });
        setTimeout(() => removeEventListener("click", swallow, { capture: true }));
      }
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
      say(form, fill(event.target.checked ? "ties on" : "ties off"));
    });
    for (const slot of slots(form)) {
      slot.addEventListener("change", (event) => give(form, slot, Number(event.target.value)));
      slot.querySelector("img").addEventListener("click", () => tap(form, slot));
      slot.addEventListener("pointerdown", (event) => {
        const held = event.target.closest(event.pointerType === "touch" ? "legend" : "legend, figure img");
        if (held && event.button === 0) drag(form, slot, event);
      });
    }
  }

  // ------------------------------------------------------------------------------------------------------------- keys
  const SWITCH = "study keys", switches = [...document.querySelectorAll("[data-keys]")];
  let keys = true;
  try { keys = localStorage.getItem(SWITCH) !== "off"; } catch { /* nothing is kept */ }
  for (const one of switches) {
    one.checked = keys;
    one.addEventListener("change", () => {
      keys = one.checked;
      try { localStorage.setItem(SWITCH, keys ? "on" : "off"); } catch { /* it lasts as long as the page */ }
    });
  }

  const click = (selector) => { const found = [...document.querySelectorAll(selector)].find(shown); found?.click(); return Boolean(found); };
  // The digit of a key: also of one that takes the shift key for it, as on a French keyboard.
  const digitOf = (event) => {
    if (/^[0-9]$/.test(event.key)) return event.key;
    return !event.shiftKey && !/^[a-z]$/i.test(event.key) ? /^Digit([0-9])$/.exec(event.code)?.[1] ?? "" : "";
  };
  const focused = (selector) => document.activeElement?.closest(selector);

  function answer(present, key, digit, target) {
    const form = present.querySelector("form"), press = (selector) => { form.querySelector(selector).click(); return true; };
    if (key === "z") {
      enlarge((focused(".slot") ?? present).querySelector("img"));
      return true;
    }
    if (key === "enter" && form.querySelector("button.main") && !target.closest("a, button, summary")) {
      form.requestSubmit(form.querySelector("button.main"));
      return true;
    }
    if (key === "s" && !present.matches(".count")) return press("button[value=skipped]");
    if (present.matches(".count")) {
      if (digit) return press(`button[value="${digit}"]`);
      return key === "c" && press('button[value="cannot tell"]');
    }
    if (present.matches(".choice")) {
      const value = { arrowleft: "A", arrowright: "B", arrowdown: "equal" }[key];
      return value !== undefined && press(`button[value=${value}]`);
    }
    if (present.matches(".rating")) {
      const questions = [...form.querySelectorAll(".question")], open = () => questions.find((one) => !one.querySelector("input:checked"));
      const question = focused(".question") ?? open(), input = question?.querySelector(`input[value="${digit}"]`);
      if (!input) return false;
      input.checked = true;
      (open()?.querySelector("input") ?? form.querySelector("button.main")).focus({ preventScroll: true });
      return true;
    }
    if (key === "t") return press("[name=ties]");
    const slot = focused(".slot") ?? slots(form).find((one) => !rankOf(one));
    if (!slot || !slot.querySelector(`input[value="${digit}"]`)) return false;
    give(form, slot, Number(digit));
    const next = slots(form).find((other) => !rankOf(other));
    (next?.querySelector("input") ?? form.querySelector("button.main")).focus({ preventScroll: true });
    return true;
  }

  document.addEventListener("keydown", (event) => {
    const writing = event.target.matches?.("textarea, input:not([type=radio]):not([type=checkbox])");
    if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || writing || dialog?.open) return;
    const present = task(), key = event.key.toLowerCase();
    if (!keys && key !== "enter") return;
    let used = false;
    if (["b", "n", "u"].includes(key)) used = click(`[data-key=${key}]`);
    else if (present && ready) used = answer(present, key, digitOf(event), event.target);
    if (used) event.preventDefault();
  });
})();
