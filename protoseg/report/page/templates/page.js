(() => {
  "use strict";
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  all(".tools, .hint, button.copy, .legend input, .legend .all, .refresh").forEach((e) => { e.hidden = false; });

  // Sorting: a header sorts its column up, then down, then restores the first order.
  const isNumber = (cell) => cell.dataset.value !== undefined;
  const compare = (a, b, sign) => {
    if (isNumber(a) !== isNumber(b)) return isNumber(a) ? -1 : 1;
    if (isNumber(a)) return sign * (Number(a.dataset.value) - Number(b.dataset.value));
    return sign * a.textContent.localeCompare(b.textContent, "en", { numeric: true });
  };
  for (const table of all("table.data")) {
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const rules = rows.map((row) => row.className);
    const headers = all("tr.columns > th", table);
    headers.forEach((header, column) => {
      const title = header.querySelector("span");
      const button = document.createElement("button");
      button.type = "button";
      title.replaceWith(button);
      button.append(title);
      button.addEventListener("click", () => {
        const order = { ascending: "descending", descending: "" };
        const next = order[header.getAttribute("aria-sort")] ?? "ascending";
        headers.forEach((other) => other.removeAttribute("aria-sort"));
        if (next) header.setAttribute("aria-sort", next);
        const sign = next === "descending" ? -1 : 1;
        const sorted = next
          ? [...rows].sort((a, b) => compare(a.cells[column], b.cells[column], sign))
          : rows;
        rows.forEach((row, index) => { row.className = next ? "" : rules[index]; });
        body.append(...sorted);
      });
    });
  }

  // Filter: rows that contain all words.
  for (const tools of all(".tools")) {
    const rows = all("table.data > tbody > tr", tools.parentElement);
    const field = tools.querySelector("input");
    const count = tools.querySelector("output");
    const filter = () => {
      const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
      }
      const shown = rows.filter((row) => !row.hidden).length;
      count.textContent = words.length ? `${shown} of ${rows.length} rows` : `${rows.length} rows`;
    };
    field.addEventListener("input", filter);
    filter();
  }

  // The runs behind a cell, beside it. The pointer may move onto them; Escape closes them.
  const tip = document.getElementById("tip");
  let owner = null;
  let timer = 0;
  const hide = () => {
    clearTimeout(timer);
    if (owner) owner.removeAttribute("aria-describedby");
    owner = null;
    tip.hidden = true;
  };
  const hideSoon = () => {
    clearTimeout(timer);
    timer = setTimeout(hide, 250);
  };
  const show = (link) => {
    clearTimeout(timer);
    if (owner === link) return;
    hide();
    const detail = document.getElementById(link.hash.slice(1));
    if (!detail) return;
    const copy = detail.cloneNode(true);
    copy.removeAttribute("id");
    all("[tabindex]", copy).forEach((e) => e.removeAttribute("tabindex"));
    tip.replaceChildren(copy);
    owner = link;
    link.setAttribute("aria-describedby", "tip");
    tip.hidden = false;
    const box = link.getBoundingClientRect();
    const size = tip.getBoundingClientRect();
    const width = document.documentElement.clientWidth;
    const left = Math.max(8, Math.min(box.left, width - size.width - 8));
    const fits = box.bottom + 6 + size.height <= window.innerHeight || box.top < size.height + 6;
    const top = fits ? box.bottom + 6 : box.top - size.height - 6;
    tip.style.left = `${left + window.scrollX}px`;
    tip.style.top = `${top + window.scrollY}px`;
  };
  for (const link of all("a.cell")) {
    link.addEventListener("mouseenter", () => show(link));
    link.addEventListener("mouseleave", hideSoon);
    link.addEventListener("focus", () => show(link));
    link.addEventListener("blur", hideSoon);
    link.addEventListener("click", hide);
  }
  if (tip) {
    tip.addEventListener("mouseenter", () => clearTimeout(timer));
    tip.addEventListener("mouseleave", hideSoon);
    document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  }

  // A link to the runs of a cell opens the lists around them, in browsers that do not.
  const open = () => {
    const target = location.hash && document.getElementById(location.hash.slice(1));
    if (!target) return;
    for (let e = target.parentElement; e; e = e.parentElement) if (e.tagName === "DETAILS") e.open = true;
    target.scrollIntoView();
  };
  window.addEventListener("hashchange", open);
  open();

  // Lines of a chart, on and off.
  for (const box of all(".legend [data-all]")) {
    box.addEventListener("change", () => {
      for (const other of all("[data-series]", box.closest(".legend"))) {
        other.checked = box.checked;
        other.dispatchEvent(new Event("change"));
      }
    });
  }
  for (const box of all(".legend [data-series]")) {
    const line = box.closest("figure").querySelector(`.series[data-series="${box.dataset.series}"]`);
    const update = () => line.classList.toggle("off", !box.checked);
    box.addEventListener("change", update);
    update();
  }

  // Two label maps of an image, one left and one right of a border that a slider moves.
  for (const example of all(".example")) {
    const pictures = all(".pictures img", example);
    if (pictures.length < 2) continue;
    const compare = example.querySelector(".compare");
    const border = compare.querySelector("input");
    const move = () => {
      const share = `${border.value}%`;
      compare.querySelector(".stage").style.setProperty("--border", share);
      compare.querySelector("img.right").style.clipPath = `inset(0 0 0 ${share})`;
    };
    ["left", "right"].forEach((side, first) => {
      const choice = compare.querySelector(`select.${side}`);
      const image = compare.querySelector(`img.${side}`);
      for (const picture of pictures) {
        choice.append(new Option(picture.nextElementSibling.textContent));
      }
      const update = () => {
        image.src = pictures[choice.selectedIndex].src;
        image.alt = pictures[choice.selectedIndex].alt;
      };
      choice.selectedIndex = first;
      choice.addEventListener("change", update);
      update();
    });
    border.addEventListener("input", move);
    move();
    compare.hidden = false;
  }

  // The page of running runs reloads itself, unless its box is cleared.
  for (const box of all("[data-refresh]")) {
    setInterval(() => { if (box.checked) location.reload(); }, 1000 * box.dataset.refresh);
  }

  // Copying of commands.
  for (const button of all("button.copy")) {
    button.addEventListener("click", async () => {
      const code = button.parentElement.querySelector("code");
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(code);
        button.textContent = "Selected";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
  }
})();
