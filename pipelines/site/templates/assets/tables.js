// Tables that can be sorted by a column, and a filter of their rows.
"use strict";

// The number a cell begins with; words are sorted as words, and empty cells come last.
const key = (row, column) => {
  const text = row.cells[column].textContent.trim();
  const number = parseFloat(text);
  return text === "" ? null : Number.isNaN(number) ? text.toLowerCase() : number;
};
const compared = (one, other) => typeof one === typeof other ? (one < other ? -1 : one > other ? 1 : 0) : typeof one === "number" ? -1 : 1;

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.ariaSort === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.ariaSort = down ? "descending" : "ascending";
      const rows = [...table.tBodies[0].rows].map((row) => [key(row, column), row]);
      rows.sort(([one], [other]) => one === null || other === null ? (one === null) - (other === null)
        : compared(one, other) * (down ? -1 : 1));
      table.tBodies[0].append(...rows.map(([, row]) => row));
    });
  });
}

const find = document.getElementById("find");
if (find) {
  const words = document.getElementById("words");
  const found = document.getElementById("found");
  const show = () => {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const task of document.querySelectorAll(".task")) {
      let here = 0;
      for (const row of task.querySelectorAll("tbody tr")) {
        const text = `${task.dataset.name} ${row.cells[0].textContent}`.toLowerCase();
        row.hidden = !wanted.every((word) => text.includes(word));
        here += row.hidden ? 0 : 1;
      }
      task.hidden = here === 0;
      count += [...task.querySelector("tbody").rows].filter((row) => !row.hidden).length;
    }
    found.textContent = `${count} models`;
  };
  find.hidden = false;
  find.addEventListener("input", show);
  find.addEventListener("submit", (event) => event.preventDefault());
  show();
}
