"use strict";

// The slider: what belongs to a checkpoint carries its step, and is on or not.
for (const slider of document.querySelectorAll("input[data-steps]")) {
  const steps = slider.dataset.steps.split(" ");
  const parts = slider.closest(".attack").querySelectorAll("[data-step]");
  slider.addEventListener("input", () => {
    const step = steps[slider.value];
    slider.setAttribute("aria-valuetext", `step ${step}`);
    for (const part of parts) part.classList.toggle("on", part.dataset.step === step);
  });
  slider.value = slider.max; // browsers put back where it was before a reload
}

// Tables: a click on a heading sorts by it, a second one the other way; what has no value is last.
const compare = new Intl.Collator(undefined, { numeric: true }).compare;
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    heading.firstElementChild.addEventListener("click", () => {
      const down = heading.ariaSort === "ascending";
      for (const other of headings) other.ariaSort = null;
      heading.ariaSort = down ? "descending" : "ascending";
      const value = (row) => row.cells[column].dataset.value;
      const order = (a, b) =>
        heading.className === "number" ? Number(value(a)) - Number(value(b)) : compare(value(a), value(b));
      const rows = [...table.tBodies[0].rows];
      const known = rows.filter((row) => value(row) !== "").sort((a, b) => (down ? order(b, a) : order(a, b)));
      table.tBodies[0].append(...known, ...rows.filter((row) => value(row) === ""));
    });
  });
}

// Pictures: a click or Enter shows them large, arrow keys go on to the next, Escape closes.
const dialog = document.querySelector("dialog");
if (dialog) {
  let shown = null;
  const show = (button) => {
    shown = button;
    const pictures = [...button.querySelectorAll("img")].filter((picture) => picture.checkVisibility());
    dialog.querySelector(".large").replaceChildren(...pictures.map((picture) => picture.cloneNode()));
    const caption = button.querySelector(".caption");
    dialog.querySelector(".caption").textContent = caption ? caption.innerText : pictures[0].alt;
    if (!dialog.open) dialog.showModal();
  };
  const move = (by) => {
    const all = [...shown.closest(".attack").querySelectorAll(".zoom")].filter((button) => button.checkVisibility());
    show(all[(all.indexOf(shown) + by + all.length) % all.length]);
  };
  for (const button of document.querySelectorAll(".zoom")) button.addEventListener("click", () => show(button));
  dialog.addEventListener("click", (event) => {
    const by = Number(event.target.value ?? 0);
    if (by) move(by);
    else if (event.target.matches("button") || event.target === dialog) dialog.close();
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") move(-1);
    if (event.key === "ArrowRight") move(1);
  });
  dialog.addEventListener("close", () => shown.focus());
}
