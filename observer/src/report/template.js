"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const PAGE = 50, ROWS = 200;
  const find = (id) => document.getElementById(id);

  // Whatever records say gets in as text only.
  function make(tag, attributes, ...children) {
    const element = document.createElement(tag);
    return fill(element, attributes, children);
  }
  function draw(tag, attributes, ...children) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    return fill(element, attributes, children);
  }
  function fill(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value !== null && value !== undefined) element.setAttribute(name, value);
    }
    for (const child of children.flat()) {
      if (child !== null && child !== undefined) {
        element.append(child instanceof Node ? child : document.createTextNode(String(child)));
      }
    }
    return element;
  }
  function visible(text) {
    // What turns the direction of text, or cannot be seen, must not change what is read.
    return String(text).replace(/[\u{0}-\u{8}\u{b}-\u{1f}\u{7f}-\u{9f}\u{61c}\u{200b}-\u{200f}\u{2028}-\u{202e}\u{2060}-\u{206f}\u{feff}\u{fff9}-\u{fffb}\u{e0000}-\u{e007f}]/gu, "\ufffd");
  }

  const number = (value) => value === null || value === undefined ? "–" : value.toLocaleString("en");
  function duration(ns) {
    if (ns === null || ns === undefined) return "–";
    if (ns === 0) return "0";
    if (ns < 1e6) return `${(ns / 1e3).toFixed(0)} µs`;
    if (ns < 1e9) return `${(ns / 1e6).toFixed(ns < 1e7 ? 1 : 0)} ms`;
    if (ns < 6e10) return `${(ns / 1e9).toFixed(2)} s`;
    if (ns < 3.6e12) return `${Math.floor(ns / 6e10)} min ${Math.round(ns % 6e10 / 1e9)} s`;
    return `${Math.floor(ns / 3.6e12)} h ${Math.round(ns % 3.6e12 / 6e10)} min`;
  }
  function dollars(usd) {
    if (usd === null || usd === undefined) return "–";
    return "$" + usd.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: 6 });
  }
  const count = (value, noun) => `${number(value)} ${noun}${value === 1 ? "" : "s"}`;
  const percent = (part, all) => all ? `${(100 * part / all).toFixed(1)} %` : "–";

  const first = data.first ? new Date(data.first) : null;
  function clock(offset, withDate) {
    if (!first) return "–";
    const time = new Date(first.getTime() + offset / 1e6);
    const text = time.toISOString().replace("T", " ").slice(0, 23);
    return withDate ? text.slice(0, 19) : text.slice(11);
  }

  const calls = data.calls.map(([trace, start, latency, firstToken, model, process, operation, status, tokens, cost, failed,
    error, message, finish, tools, attempts, incomplete, ids, previews]) => ({
    trace, start, latency, firstToken, status, cost, failed, finish, tools, attempts, incomplete,
    model: visible(data.names[model]), process: visible(data.names[process]), operation: visible(data.names[operation]),
    input: tokens[0], output: tokens[1], cached: tokens[2], reasoning: tokens[3],
    error: error && visible(error), message: message && visible(message), span: ids[0], request: ids[1],
    asked: previews[0], answered: previews[1],
  }));
  const traces = data.traces.map(([id, name, process, source, start, duration, total, errors, steps, ended, conversation]) => ({
    id: visible(id), name: name && visible(name), process: visible(data.names[process]), source: source && visible(source), start, duration, total, errors, ended, conversation,
    steps: steps.map(([name, start, duration, given, result, failed]) => ({ name: visible(name), start, duration, given, result, failed })),
    calls: [], input: 0, output: 0, cost: null,
  }));
  const loose = [];
  for (const call of calls) {
    if (call.trace === null) { loose.push(call); continue; }
    const trace = traces[call.trace];
    trace.calls.push(call);
    trace.input += call.input || 0;
    trace.output += call.output || 0;
    if (call.cost !== null) trace.cost = (trace.cost || 0) + call.cost;
  }
  for (const trace of traces) {
    trace.calls.sort((a, b) => a.start - b.start);
    const models = [...new Set(trace.calls.map((call) => call.model))];
    trace.models = models.length > 1 ? `${models.length} models` : models.join("");
    const errors = trace.calls.map((call) => `${call.error || ""} ${call.status || ""}`);
    const tools = trace.steps.map((step) => step.name);
    trace.text = [trace.id, trace.name, trace.process, trace.conversation, ...models, ...errors, ...tools].join("\n").toLowerCase();
  }

  notices();
  summary();
  times();
  groups("models", "Model", data.models);
  groups("processes", "Process", data.processes);
  errors();
  list();
  without();

  function notices() {
    const place = find("notices");
    const say = (text) => place.append(make("p", { class: "notice", role: "note" }, visible(text)));
    for (const file of data.files) {
      if (file.bad) say(`${file.name}: ${count(file.bad, "line")} could not be read as a record and ${file.bad === 1 ? "is" : "are"} left out.`);
      if (file.cut) say(`${file.name} ends within a line: it may still be being written. The cut line is left out.`);
      if (file.others) say(`${file.name}: ${count(file.others, "line")} ${file.others === 1 ? "is" : "are"} of a type that this page does not show.`);
    }
    if (data.calls_left_out) {
      say(`The figures and tables are over all ${count(data.totals.calls, "call")}. Listed below are the latest ${number(data.calls.length)} with their traces; ` +
        `${count(data.calls_left_out, "earlier call")} ${data.calls_left_out === 1 ? "is" : "are"} left out of the list.`);
    }
    if (!data.totals.calls) say("There are no calls in what was read.");
    const names = data.files.map((file) => file.name).join(", ");
    find("about").textContent = visible(first ? `${clock(0, true)} to ${clock(data.span_ns, true)} UTC · ${names}` : names);
    find("made").textContent = `Made by ${data.generator} at ${data.made}. Percentiles are exact within 1 %. Token counts include those of caches and reasoning.`;
  }

  function summary() {
    const all = data.totals;
    const tile = (id, title, value, note, bad) => find("summary").append(make("div", {},
      make("dt", {}, title), make("dd", { id, class: bad ? "bad" : null }, value, note ? make("small", {}, note) : null)));
    tile("calls", "Calls", number(all.calls), all.incomplete ? `${number(all.incomplete)} incomplete` : null);
    tile("failed", "Errors", number(all.errors), percent(all.errors, all.calls), all.errors > 0);
    tile("input", "Tokens in", number(all.input), all.cached ? `${number(all.cached)} from caches` : null);
    tile("output", "Tokens out", number(all.output), all.reasoning ? `${number(all.reasoning)} of reasoning` : null);
    tile("cost", "Cost", dollars(all.cost), all.cost === null ? "not known" : all.priced < all.calls ? `of ${count(all.priced, "call")}` : null);
    tile("latency", "Latency, median", duration(all.latency.p50), `95 % within ${duration(all.latency.p95)}`);
    tile("first", "First token, median", duration(all.first_token.p50), all.first_token.count ? `95 % within ${duration(all.first_token.p95)}` : "no streams");
    tile("span", "Time span", duration(data.span_ns));
    tile("process-count", "Processes", number(Object.keys(data.processes).length));
    tile("model-count", "Models", number(Object.keys(data.models).length));
    tile("trace-count", "Traces", number(Math.max(data.traces_seen, traces.length)), traces.length < data.traces_seen ? `${number(traces.length)} listed` : null);
  }

  function times() {
    const place = find("times");
    if (!data.totals.calls) { place.append(make("p", { class: "dim" }, "None.")); return; }
    place.append(histogram("Latency of calls", data.latency_histogram, data.totals.latency));
    if (data.totals.first_token.count) {
      place.append(histogram("Time to the first token", data.first_token_histogram, data.totals.first_token));
    }
  }

  function histogram(title, parts, spread) {
    const width = 440, height = 130, top = 16;
    const most = Math.max(...parts.map((part) => part[1]), 1);
    const step = width / Math.max(parts.length, 1);
    const picture = draw("svg", { viewBox: `0 0 ${width} ${height + 34}`, role: "img", "aria-label": `${title}: median ${duration(spread.p50)}, 95 % within ${duration(spread.p95)}, longest ${duration(spread.max)}` });
    const every = Math.ceil(parts.length / 7);
    parts.forEach(([end, many], at) => {
      const tall = (height - top) * many / most;
      const bar = draw("rect", { class: "answer", x: at * step + 2, y: height - tall, width: Math.max(Math.min(step - 4, 64), 1), height: many ? Math.max(tall, 1) : 0 },
        draw("title", {}, `${at ? duration(parts[at - 1][0]) : 0} to ${duration(end)}: ${count(many, "call")}`));
      picture.append(bar);
      const middle = at * step + 2 + Math.min(step - 4, 64) / 2;
      if (many && step >= 22) picture.append(draw("text", { x: middle, y: height - tall - 4, "text-anchor": "middle" }, number(many)));
      if (at % every === 0) picture.append(draw("text", { x: middle, y: height + 14, "text-anchor": "middle" }, `< ${duration(end).replace(/\.0+ /, " ")}`));
    });
    picture.append(draw("line", { class: "grid", x1: 0, x2: width, y1: height + 0.5, y2: height + 0.5 }));
    const facts = `median ${duration(spread.p50)} · 90 % ${duration(spread.p90)} · 95 % ${duration(spread.p95)} · 99 % ${duration(spread.p99)} · longest ${duration(spread.max)}`;
    return make("figure", {}, make("figcaption", {}, title), picture, make("p", { class: "dim" }, facts));
  }

  // Median to 95 %, on one scale for the whole table.
  function range(spread, most) {
    if (!spread.count) return "–";
    const at = (ns) => `${(100 * Math.sqrt((ns || 0) / most)).toFixed(2)}%`;
    const wide = `${Math.max(100 * (Math.sqrt(spread.p95 / most) - Math.sqrt(spread.p50 / most)), 1).toFixed(2)}%`;
    return draw("svg", { height: 14, role: "img", "aria-label": `median ${duration(spread.p50)}, 95 % ${duration(spread.p95)}` },
      draw("rect", { class: "track", x: 0, y: 6, width: at(spread.max), height: 2 }),
      draw("rect", { class: "answer", x: at(spread.p50), y: 3, width: wide, height: 8 }),
      draw("line", { class: "mark", x1: at(spread.p50), x2: at(spread.p50), y1: 1, y2: 13 }),
      draw("title", {}, `median ${duration(spread.p50)}, 95 % within ${duration(spread.p95)}, longest ${duration(spread.max)}`));
  }

  function groups(id, title, by) {
    const rows = Object.entries(by).map(([name, sums]) => ({ name: visible(name), ...sums }));
    const most = Math.max(...rows.map((row) => row.latency.max || 0), 1);
    const priced = rows.some((row) => row.cost !== null);
    table(find(id), title, [
      { title, value: (row) => row.name, class: "name" },
      { title: "Calls", value: (row) => row.calls, show: number },
      { title: "Errors", value: (row) => row.errors, show: number, bad: (row) => row.errors > 0 },
      { title: "Tokens in", value: (row) => row.input, show: number },
      { title: "Tokens out", value: (row) => row.output, show: number },
      { title: "Median", value: (row) => row.latency.p50, show: duration },
      { title: "95 %", value: (row) => row.latency.p95, show: duration },
      { title: "First token", value: (row) => row.first_token.p50, show: duration },
      priced ? { title: "Cost", value: (row) => row.cost, show: dollars } : null,
      { title: "Latency", draw: (row) => range(row.latency, most), class: "range" },
    ], rows, 1);
  }

  function errors() {
    if (!data.errors.length) { find("errors").append(make("p", { class: "dim" }, "None.")); return; }
    table(find("errors"), "Errors", [
      { title: "Error", value: (row) => visible(row.kind || "?"), class: "name" },
      { title: "Status", value: (row) => row.status, show: (value) => value === null ? "–" : String(value) },
      { title: "Model", value: (row) => visible(row.model), class: "name" },
      { title: "Calls", value: (row) => row.calls, show: number },
      { title: "Last message", value: (row) => visible(row.message || "–"), class: "text" },
    ], data.errors, 3);
  }

  // A table that is sorted by its headings, a page at a time.
  function table(place, caption, given, rows, by) {
    const columns = given.filter(Boolean);
    if (!rows.length) { place.append(make("p", { class: "dim" }, "None.")); return; }
    let down = true, page = 0;
    const body = make("tbody");
    const numeric = (column) => column.show !== undefined;
    const heads = columns.map((column, at) => {
      const head = make("th", { scope: "col", class: numeric(column) ? "number" : null });
      if (column.draw) { head.append(column.title); return head; }
      const button = make("button", { type: "button" }, column.title);
      button.addEventListener("click", () => {
        down = by === at ? !down : numeric(column);
        by = at;
        page = 0;
        show();
      });
      head.append(button);
      return head;
    });
    const pages = pager((to) => { page = to; show(); });
    place.append(make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
      make("table", { "aria-label": caption }, make("thead", {}, make("tr", {}, heads)), body)), pages.element);
    show();
    function show() {
      heads.forEach((head, at) => {
        if (at === by) head.setAttribute("aria-sort", down ? "descending" : "ascending"); else head.removeAttribute("aria-sort");
      });
      const value = columns[by].value;
      const sorted = [...rows].sort((a, b) => (down ? -1 : 1) * compare(value(a), value(b)));
      body.replaceChildren(...sorted.slice(page * PAGE, (page + 1) * PAGE).map((row) => make("tr", {}, columns.map((column) => {
        if (column.draw) return make("td", { class: column.class }, column.draw(row));
        const text = numeric(column) ? column.show(column.value(row)) : column.value(row);
        const kind = [numeric(column) ? "number" : column.class, column.bad && column.bad(row) ? "bad" : null].filter(Boolean).join(" ");
        return make("td", { class: kind || null }, text);
      }))));
      pages.show(page, sorted.length);
    }
  }

  function compare(a, b) {
    if (a === b) return 0;
    if (a === null || a === undefined) return -1;
    if (b === null || b === undefined) return 1;
    return a < b ? -1 : 1;
  }

  function pager(go) {
    const state = make("span", { "aria-live": "polite" });
    const back = make("button", { type: "button" }, "Previous");
    const on = make("button", { type: "button" }, "Next");
    let at = 0;
    back.addEventListener("click", () => go(at - 1));
    on.addEventListener("click", () => go(at + 1));
    const element = make("nav", { class: "pages", "aria-label": "Pages" }, back, state, on);
    return {
      element,
      show(page, all) {
        at = page;
        const last = Math.max(Math.ceil(all / PAGE) - 1, 0);
        element.hidden = last === 0;
        back.disabled = page <= 0;
        on.disabled = page >= last;
        state.textContent = `${number(page * PAGE + 1)} to ${number(Math.min((page + 1) * PAGE, all))} of ${number(all)}`;
      },
    };
  }

  function list() {
    const place = find("traces");
    if (!traces.length) { place.append(make("p", { class: "dim" }, "None.")); return; }
    const orders = {
      "latest first": (a, b) => b.start - a.start,
      "earliest first": (a, b) => a.start - b.start,
      "longest first": (a, b) => b.duration - a.duration,
      "most calls first": (a, b) => b.total - a.total,
      "most errors first": (a, b) => b.errors - a.errors,
      "most tokens first": (a, b) => b.input + b.output - a.input - a.output,
      "highest cost first": (a, b) => (b.cost || 0) - (a.cost || 0),
    };
    const search = make("input", { type: "search", id: "search", placeholder: "process, model, tool, error, id", autocomplete: "off" });
    const order = make("select", { id: "order" }, Object.keys(orders).map((name) => make("option", { value: name }, name)));
    const only = make("select", { id: "only" }, ["all", "with errors", "with tools", "not ended"].map((name) => make("option", { value: name }, name)));
    const state = make("p", { class: "dim", "aria-live": "polite", id: "found" });
    const rows = make("div", { id: "trace-list" });
    let page = 0;
    const pages = pager((to) => { page = to; show(); });
    place.append(make("div", { class: "controls" },
      make("label", {}, "Search", search), make("label", {}, "Order", order), make("label", {}, "Show", only)), state, rows, pages.element);
    const again = () => { page = 0; show(); };
    search.addEventListener("input", again);
    order.addEventListener("change", again);
    only.addEventListener("change", again);
    show();
    function show() {
      const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      const fits = {
        all: () => true,
        "with errors": (trace) => trace.errors > 0,
        "with tools": (trace) => trace.steps.length > 0,
        "not ended": (trace) => !trace.ended,
      }[only.value];
      const found = traces.filter((trace) => fits(trace) && wanted.every((word) => trace.text.includes(word))).sort(orders[order.value]);
      state.textContent = found.length === traces.length ? count(found.length, "trace") : `${number(found.length)} of ${count(traces.length, "trace")}`;
      rows.replaceChildren(...found.slice(page * PAGE, (page + 1) * PAGE).map(entry));
      pages.show(page, found.length);
    }
  }

  function entry(trace) {
    const label = trace.name && !trace.process.startsWith(`${trace.name}[`) ? `${trace.name} · ${trace.process}` : trace.process;
    const head = make("summary", {},
      make("span", { class: "label" }, label),
      make("span", {}, clock(trace.start).slice(0, 8)),
      make("span", { class: "dim models", title: trace.models }, trace.models),
      make("span", { class: "number" }, duration(trace.duration)),
      make("span", { class: "number" }, count(trace.total, "call")),
      make("span", { class: "number" }, `${number(trace.input)} in, ${number(trace.output)} out`),
      make("span", { class: trace.errors ? "number bad" : "number" }, trace.errors ? count(trace.errors, "error") : trace.ended ? "" : "not ended"));
    const element = make("details", { class: "trace", "data-trace": trace.id }, head);
    let filled = false;
    const open = () => {
      if (!filled && element.open) { filled = true; element.append(waterfall(trace)); }
    };
    element.addEventListener("toggle", open);
    element.fall = () => { element.open = true; open(); };
    return element;
  }

  function waterfall(trace) {
    const all = [...trace.calls.map((call) => ({ call, start: call.start })), ...trace.steps.map((step) => ({ step, start: step.start }))];
    all.sort((a, b) => a.start - b.start);
    const from = Math.min(trace.start, ...all.slice(0, 1).map((bar) => bar.start));
    let to = trace.start + trace.duration;
    for (const { call, step } of all) to = Math.max(to, call ? call.start + call.latency : step.start + (step.duration || 0));
    const total = Math.max(to - from, 1);
    const about = [`trace ${trace.id}`, `${clock(trace.start, true)} UTC`, trace.source ? `by ${trace.source}` : "no record of its end"];
    if (trace.conversation) about.push(`conversation ${visible(trace.conversation)}`);
    if (trace.cost !== null) about.push(dollars(trace.cost));
    const place = make("div", { class: "fall" }, make("p", { class: "head" }, about.join(" · ")));
    if (trace.calls.length < trace.total) {
      place.append(make("p", { class: "notice" }, `${number(trace.calls.length)} of ${count(trace.total, "call")} listed; the others are left out, or in no file that was read.`));
    }
    place.append(legend());
    const ticks = make("span", { class: "bar axis" }, [0, 0.25, 0.5, 0.75, 1].map((part) => make("span", {}, part ? duration(part * total) : "0")));
    place.append(make("div", { class: "row heading", "aria-hidden": "true" }, make("span", {}, "Call or tool"), make("span", {}, "Status"),
      make("span", { class: "number tokens" }, "Tokens in, out"), make("span", { class: "number" }, "Time"), ticks));
    const rows = make("ul", { class: "rows" });
    place.append(rows);
    let shown = 0;
    const more = make("button", { type: "button", class: "more" });
    const next = () => {
      rows.append(...all.slice(shown, shown + ROWS).map((bar) => line(bar, from, total)));
      shown = Math.min(shown + ROWS, all.length);
      more.hidden = shown >= all.length;
      more.textContent = `Show ${number(Math.min(ROWS, all.length - shown))} more of ${number(all.length - shown)}`;
    };
    more.addEventListener("click", next);
    next();
    place.append(more);
    return place;
  }

  function legend() {
    const sample = (kind, text) => make("span", {}, draw("svg", { "aria-hidden": "true" },
      kind === "mark" ? draw("line", { class: "mark", x1: 13, x2: 13, y1: 0, y2: 12 }) : draw("rect", { class: kind, x: 0, y: kind === "tool" ? 4 : 1, width: 26, height: kind === "tool" ? 4 : 10 })), text);
    return make("div", { class: "legend" }, sample("wait", "waiting"), sample("mark", "first token"), sample("answer", "answering"), sample("wrong", "failed"), sample("tool", "tool"));
  }

  function line({ call, step }, from, total) {
    const at = (ns) => `${(100 * (ns - from) / total).toFixed(3)}%`;
    const wide = (ns) => `${Math.max(100 * ns / total, 0.4).toFixed(3)}%`;
    const picture = draw("svg", { height: 16, "aria-hidden": "true" });
    for (const part of [0, 0.25, 0.5, 0.75, 1]) picture.append(draw("line", { class: "grid", x1: `${100 * part}%`, x2: `${100 * part}%`, y1: 0, y2: 16 }));
    let cells;
    if (call) {
      const shade = call.failed ? "wrong" : "answer";
      if (call.firstToken !== null && !call.failed) {
        const token = Math.min(call.firstToken, call.latency);
        picture.append(draw("rect", { class: "wait", x: at(call.start), y: 3, width: wide(token), height: 10 }),
          draw("rect", { class: shade, x: at(call.start + token), y: 3, width: wide(call.latency - token), height: 10 }),
          draw("line", { class: "mark", x1: at(call.start + token), x2: at(call.start + token), y1: 0, y2: 16 }));
      } else {
        picture.append(draw("rect", { class: shade, x: at(call.start), y: 3, width: wide(call.latency), height: 10 }));
      }
      cells = [make("span", { class: "what" }, call.model), make("span", { class: call.failed ? "bad" : null }, call.status === null ? "–" : call.status),
        make("span", { class: "number tokens" }, `${number(call.input)}, ${number(call.output)}`), make("span", { class: "number" }, duration(call.latency))];
    } else {
      picture.append(draw("rect", { class: step.failed ? "wrong" : "tool", x: at(step.start), y: 6, width: wide(step.duration || 0), height: 4 }));
      cells = [make("span", { class: "what step" }, step.name), make("span", { class: step.failed ? "bad" : null }, step.failed ? "failed" : "tool"),
        make("span", { class: "number tokens" }, ""), make("span", { class: "number" }, duration(step.duration))];
    }
    const hint = call ? facts(call, from).slice(0, 6).map(([name, value]) => `${name}: ${value}`).join("\n") : `${step.name}: ${duration(step.duration)}`;
    const row = make("button", { type: "button", class: "row", "aria-expanded": "false", title: hint }, cells, make("span", { class: "bar" }, picture));
    const item = make("li", {}, row);
    let details = null;
    row.addEventListener("click", () => {
      if (details) { details.remove(); details = null; } else { details = describe(call ? facts(call, from) : toolFacts(step, from)); item.append(details); }
      row.setAttribute("aria-expanded", String(details !== null));
    });
    return item;
  }

  function facts(call, from) {
    const known = [
      ["Model", call.model], ["Operation", call.operation], ["Status", call.status === null ? null : String(call.status)],
      ["Latency", duration(call.latency)], ["First token", call.firstToken === null ? null : duration(call.firstToken)],
      ["Tokens", `${number(call.input)} in${call.cached ? ` (${number(call.cached)} from a cache)` : ""}, ${number(call.output)} out${call.reasoning ? ` (${number(call.reasoning)} of reasoning)` : ""}`],
      ["Cost", call.cost === null ? null : dollars(call.cost)], ["Error", call.error], ["Message", call.message],
      ["Incomplete", call.incomplete], ["Attempts", call.attempts], ["Finished by", visible(call.finish)], ["Wants tools", visible(call.tools)],
      ["Begun", `${clock(call.start, true)} UTC, ${duration(call.start - from)} after the start`], ["Process", call.process],
      ["Span", call.span && visible(call.span)], ["Request", call.request && visible(call.request)],
      ["Prompt", call.asked, true], ["Answer", call.answered, true],
    ];
    return known.filter((fact) => fact[1] !== null && fact[1] !== undefined && fact[1] !== "");
  }

  function toolFacts(step, from) {
    return [["Tool", step.name], ["Time", step.duration === null ? "no result was seen" : duration(step.duration)], ["Arguments", `${number(step.given)} bytes`],
      ["Result", step.result === null ? "–" : `${number(step.result)} bytes`], ["Failed", step.failed ? "yes" : "no"], ["Begun", `${duration(step.start - from)} after the start`]];
  }

  function describe(list) {
    return make("dl", { class: "facts" }, list.flatMap(([name, value, long]) =>
      [make("dt", {}, name), make("dd", {}, long ? make("pre", {}, visible(value)) : value)]));
  }

  function without() {
    if (!loose.length) return;
    find("loose-section").hidden = false;
    table(find("loose"), "Calls without a trace", [
      { title: "Model", value: (call) => call.model, class: "name" },
      { title: "Process", value: (call) => call.process, class: "name" },
      { title: "Start", value: (call) => call.start, show: (start) => clock(start, true) },
      { title: "Status", value: (call) => call.status, show: (value) => value === null ? "–" : String(value), bad: (call) => call.failed },
      { title: "Tokens in", value: (call) => call.input, show: number },
      { title: "Tokens out", value: (call) => call.output, show: number },
      { title: "Latency", value: (call) => call.latency, show: duration },
      { title: "Error", value: (call) => call.error || "", class: "text" },
    ], loose, 2);
  }

  // On paper nothing can be opened.
  addEventListener("beforeprint", () => document.querySelectorAll("details.trace").forEach((trace) => trace.fall()));
})();
