// The page of a run: filter of the samples, and one class of the latent map at a time.
"use strict";

const filter = document.getElementById("filter");
if (filter) {
  const search = document.getElementById("search");
  const chosen = document.getElementById("class");
  const rows = [...document.querySelectorAll("#list li")];
  const count = document.getElementById("count");
  const show = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.querySelector(".said").textContent.toLowerCase();
      const mine = !chosen || !chosen.value || row.dataset.class === chosen.value;
      row.hidden = !(mine && words.every((word) => text.includes(word)));
      shown += row.hidden ? 0 : 1;
    }
    count.textContent = shown === rows.length ? `${shown} samples` : `${shown} of ${rows.length} samples`;
  };
  rows.forEach((row, index) => { row.value = index + 1; });
  filter.hidden = false;
  filter.addEventListener("input", show);
  filter.addEventListener("submit", (event) => event.preventDefault());
  show();
}

const legend = document.getElementById("legend");
if (legend) {
  const maps = document.getElementById("maps");
  for (const item of legend.querySelectorAll("li")) {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    button.append(...item.childNodes);
    item.append(button);
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      for (const other of legend.querySelectorAll("button")) other.setAttribute("aria-pressed", "false");
      button.setAttribute("aria-pressed", String(on));
      for (const place of maps.querySelectorAll(".chart")) {
        charts.view(place).then((view) => view.signal("chosen", on ? item.dataset.class : "").runAsync());
      }
    });
  }
}
