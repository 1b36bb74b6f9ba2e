// The owner's page: links are copied by a button.
"use strict";
for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    const text = button.dataset.copy;
    try {
      await navigator.clipboard.writeText(text);
    } catch {  // there is no clipboard on a page that came unencrypted from another machine
      const field = document.createElement("textarea");
      field.value = text;
      button.after(field);
      field.select();
      document.execCommand("copy");
      field.remove();
    }
    const label = button.textContent;
    button.textContent = "Copied";
    document.querySelector("[role=status]").textContent = `${button.getAttribute("aria-label")}: copied`;
    setTimeout(() => { button.textContent = label; }, 1500);
  });
}
