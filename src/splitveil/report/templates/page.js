// The page without this script is complete; with it, plots answer, tables sort, and pictures move from original to recovered.
"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const tip = document.getElementById("tip");
  document.documentElement.classList.add("live");
  all("[data-live]").forEach((part) => { part.hidden = false; });

  let where = null; // of a tip that belongs to the focus, and so stays when the page scrolls to it
  function show(lines, place, stays = false) {
    where = stays ? place : null;
    tip.replaceChildren(...lines.map((text, number) => {
      const line = document.createElement(number ? "div" : "strong");
      line.textContent = text;
      return line;
    }));
    tip.hidden = false;
    put(...place());
  }
  function put(x, y) {
    const box = tip.getBoundingClientRect(), edge = 8;
    const right = document.documentElement.clientWidth - box.width - edge;
    tip.style.left = `${Math.max(edge, Math.min(x + 14, right))}px`;
    tip.style.top = `${y - box.height - 14 < edge ? y + 18 : y - box.height - 14}px`;
  }
  const hide = () => { tip.hidden = true; where = null; };
  const middle = (node) => {
    const box = node.getBoundingClientRect();
    return [box.left + box.width / 2, box.top + box.height / 2];
  };
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  document.addEventListener("scroll", () => { if (where) put(...where()); else hide(); }, { passive: true });

  // points: one stop of the tab key for each plot, arrow keys from point to point
  all("[data-tip]").forEach((mark) => {
    const lines = mark.dataset.tip.split("\n");
    mark.addEventListener("pointerenter", (event) => show(lines, () => [event.clientX, event.clientY]));
    mark.addEventListener("pointerleave", hide);
    mark.addEventListener("focus", () => show(lines, () => middle(mark), true));
    mark.addEventListener("blur", hide);
  });
  all("svg.hits").forEach((layer) => {
    const marks = all(".hit", layer);
    layer.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      const from = marks.indexOf(document.activeElement);
      if (!step || from < 0) return;
      event.preventDefault();
      const next = marks[(from + step + marks.length) % marks.length];
      marks.forEach((mark) => mark.setAttribute("tabindex", mark === next ? "0" : "-1"));
      next.focus();
    });
  });

  // curves: a cursor that says all values at one step
  const SVG = "http://www.w3.org/2000/svg";
  function draw(name, attributes) {
    const node = document.createElementNS(SVG, name);
    Object.entries(attributes).forEach(([key, value]) => node.setAttribute(key, value));
    return node;
  }
  all(".scrub").forEach((scrub) => {
    const data = JSON.parse(scrub.dataset.tracks), svg = scrub.firstElementChild, last = data.step.length - 1;
    let at = last;
    const said = () => [`${data.unit} ${data.step[at]}`]
      .concat(data.lines.filter((line) => line.v[at] !== null).map((line) => `${line.name}: ${line.v[at]}`));
    const speak = () => {
      scrub.setAttribute("aria-valuenow", data.step[at]);
      scrub.setAttribute("aria-valuetext", said().join(", "));
    };
    function mark(visible) {
      svg.replaceChildren();
      if (!visible) return hide();
      svg.append(draw("line", { class: "cursor", x1: data.x[at], x2: data.x[at], y1: data.band[0], y2: data.band[1] }));
      data.lines.forEach((line) => {
        if (line.y[at] !== null) svg.append(draw("circle", { class: `dot c${line.colour}`, cx: data.x[at], cy: line.y[at], r: 3.5 }));
      });
      const place = () => {
        const box = svg.getBoundingClientRect(), scale = box.width / svg.viewBox.baseVal.width;
        return [box.left + data.x[at] * scale, box.top + data.band[0] * scale + 20];
      };
      return show(said(), place, document.activeElement === scrub);
    }
    const move = (to) => { at = Math.max(0, Math.min(last, to)); speak(); mark(true); };
    scrub.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect(), x = (event.clientX - box.left) * svg.viewBox.baseVal.width / box.width;
      move(data.x.reduce((best, place, index) => Math.abs(place - x) < Math.abs(data.x[best] - x) ? index : best, 0));
    });
    scrub.addEventListener("pointerleave", () => mark(false));
    scrub.addEventListener("focus", () => mark(true));
    scrub.addEventListener("blur", () => mark(false));
    scrub.addEventListener("keydown", (event) => {
      const to = { ArrowRight: at + 1, ArrowUp: at + 1, ArrowLeft: at - 1, ArrowDown: at - 1, Home: 0, End: last,
        PageUp: at + Math.ceil(last / 10), PageDown: at - Math.ceil(last / 10) }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      move(to);
    });
    speak();
  });

  // pictures: the original lies over what was recovered, and the slider draws it away
  const mix = document.getElementById("mix");
  if (mix) {
    const originals = new Map(all("img[data-original]").map((image) => [image.dataset.original, image.src]));
    all(".stack").forEach((stack) => {
      const source = originals.get(stack.dataset.of);
      if (!source) return;
      const over = new Image();
      over.src = source;
      over.alt = "";
      over.className = "over";
      stack.append(over);
    });
    const set = () => {
      document.documentElement.style.setProperty("--mix", mix.value);
      const share = Number(mix.value);
      mix.setAttribute("aria-valuetext", share === 100 ? "all recovered" : share === 0 ? "all original" : `${share} % recovered`);
    };
    mix.addEventListener("input", set);
    set();
  }
  all("select[data-sheet]").forEach((choice) => {
    const rows = all(`#${choice.dataset.sheet} tr`).map((row) => ({ row, cells: all("td", row) }));
    choice.addEventListener("change", () => {
      const places = choice.value.split(",").map(Number);
      rows.forEach(({ row, cells }) => places.forEach((place) => row.append(cells[place])));
    });
  });

  // tables: a button in each head, numbers by size, what is no number last
  const number = (cell) => {
    const text = (cell.querySelector(".value") || cell).textContent.replace(/[\u202f\s]/g, "").replace("\u2212", "-");
    const found = text.match(/^[+-]?[\d.]+(e[+-]?\d+)?/);
    return found ? Number(found[0]) : NaN;
  };
  const words = (cell) => cell.textContent.trim();
  function order(body, column, sign) {
    const rows = [...body.rows], keys = new Map(rows.map((row) => [row, number(row.cells[column])]));
    const counts = rows.filter((row) => !Number.isNaN(keys.get(row))).length;
    const compare = counts * 2 >= rows.length
      ? (a, b) => (Number.isNaN(keys.get(a)) - Number.isNaN(keys.get(b))) || sign * (keys.get(a) - keys.get(b)) || 0
      : (a, b) => sign * words(a.cells[column]).localeCompare(words(b.cells[column]));
    body.append(...rows.sort(compare));
  }
  all("table.results").forEach((table) => {
    const heads = all("thead th", table), body = table.tBodies[0];
    if (body.rows.length < 2) return;
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const way = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", way);
        order(body, column, way === "ascending" ? 1 : -1);
      });
    });
  });
})();
