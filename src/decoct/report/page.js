"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const key = (row, at) => {
    const cell = row.cells[at], value = cell.dataset.value ?? cell.textContent.trim(), number = Number(value);
    return value === "" ? -Infinity : Number.isNaN(number) ? value : number;
  };
  heads.forEach((head, at) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") !== "descending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => {
        const one = key(a, at), other = key(b, at), less = one < other ? -1 : one > other ? 1 : 0;
        return down ? -less : less;
      });
      table.tBodies[0].append(...rows);
    });
  });
}
