// One page for both services: what the shop manages, what a customer finds, and the messages
// between.
"use strict";

const texts = {
  en: {
    title: "Shelf",
    subtitle: "Two services, one message",
    other: "中文",
    products: "Products",
    search: "Search",
    travelledShort: "Messages",
    productsTitle: "Product service",
    productsHint: "Flip a switch: the row is saved, a message is sent.",
    filter: "Title or number",
    category: "Category",
    everyCategory: "Categories",
    all: "All",
    on: "On shelf",
    off: "Off shelf",
    previous: "Back",
    next: "Next",
    page: (n, of, total) => `${n} / ${of} · ${total} ${total === 1 ? "product" : "products"}`,
    searchTitle: "Search service",
    searchHint: "A full-text index that learns of products from messages alone.",
    query: "What are you looking for?",
    examples: ["wireless headphones", "无线耳机", "手机", "coffee", "aurora 手机壳"],
    found: (n, ms) => `${n} found in ${ms} ms`,
    nothing: "Nothing on the shelf is like that.",
    ask: "Type something, in English or Chinese.",
    listed: n => (n === 1 ? "1 product can be found" : `${n} products can be found`),
    travelledTitle: "What travelled",
    travelledHint: "The last messages, newest first.",
    quiet: "No message yet.",
    sent: "Sent",
    what: "Tag",
    key: "Key",
    topic: "Topic",
    id: "Message id",
    indexed: "Indexed",
    latency: "Latency",
    onTheWay: "on its way",
    pending: "not sent yet",
    inIndex: ms => `in the index after ${ms}`,
    outOfIndex: ms => `out of the index after ${ms}`,
    known: "older, ignored",
    noProducts: "No product matches.",
    lost: "The service does not answer. Trying again.",
    switchOn: "Put on the shelf",
    switchOff: "Take off the shelf",
  },
  zh: {
    title: "上架",
    subtitle: "两个服务，一条消息",
    other: "English",
    products: "商品",
    search: "搜索",
    travelledShort: "消息",
    productsTitle: "商品服务",
    productsHint: "拨动开关：保存商品，并发出一条消息。",
    filter: "名称或编号",
    category: "类目",
    everyCategory: "全部类目",
    all: "全部",
    on: "已上架",
    off: "已下架",
    previous: "上一页",
    next: "下一页",
    page: (n, of, total) => `${n} / ${of} · 共 ${total} 件商品`,
    searchTitle: "搜索服务",
    searchHint: "全文索引，只从消息得知商品的变化。",
    query: "想找点什么？",
    examples: ["无线耳机", "手机", "wireless headphones", "绿茶", "aurora 手机壳"],
    found: (n, ms) => `找到 ${n} 件，用时 ${ms} 毫秒`,
    nothing: "货架上没有这样的商品。",
    ask: "输入中文或英文试试。",
    listed: n => `共 ${n} 件商品可搜到`,
    travelledTitle: "消息轨迹",
    travelledHint: "最近的消息，最新的在前。",
    quiet: "还没有消息。",
    sent: "发送",
    what: "标签",
    key: "键",
    topic: "主题",
    id: "消息 ID",
    indexed: "入索引",
    latency: "耗时",
    onTheWay: "在路上",
    pending: "尚未发送",
    inIndex: ms => `${ms} 后可搜到`,
    outOfIndex: ms => `${ms} 后搜不到`,
    known: "旧版本，已忽略",
    noProducts: "没有符合条件的商品。",
    lost: "服务没有响应，正在重试。",
    switchOn: "上架",
    switchOff: "下架",
  },
};

const categories = {
  phones: [
    "Phones",
    "手机数码",
    "#2563eb",
    "M8 3h8a1 1 0 0 1 1 1v16a1 1 0 0 1-1 1H8a1 1 0 0 1-1-1V4a1 1 0 0 1 1-1zM11 18h2",
  ],
  audio: [
    "Audio",
    "影音",
    "#7c3aed",
    "M4 15v-3a8 8 0 0 1 16 0v3M4 14h3v6H5a1 1 0 0 1-1-1zM20 14h-3v6h2a1 1 0 0 0 1-1z",
  ],
  computers: ["Computers", "电脑办公", "#0369a1", "M5 5h14v10H5zM2.5 19h19l-2.5-4H5z"],
  photo: [
    "Photo",
    "摄影",
    "#be185d",
    "M4 8h3l2-3h6l2 3h3v11H4zM12 10a3.5 3.5 0 1 0 0 7 3.5 3.5 0 0 0 0-7z",
  ],
  wearables: ["Wearables", "穿戴健康", "#0f766e", "M7 8h10v8H7zM9 8l.5-4h5l.5 4M9 16l.5 4h5l.5-4"],
  appliances: [
    "Appliances",
    "家用电器",
    "#4f46e5",
    "M5 3h14v18H5zM5 8h14M12 11a3.5 3.5 0 1 0 0 7 3.5 3.5 0 0 0 0-7zM8 5.5h1",
  ],
  kitchen: [
    "Kitchen",
    "厨房",
    "#c2410c",
    "M5 10h14v6a3 3 0 0 1-3 3H8a3 3 0 0 1-3-3zM2.5 12H5M19 12h2.5M8 7V5M12 7V4M16 7V5",
  ],
  home: ["Home", "家居", "#a16207", "M4 11l8-7 8 7M6 10v10h12V10M10 20v-6h4v6"],
  outdoor: ["Outdoor", "运动户外", "#15803d", "M12 4L3 20h18zM12 4v7M9 20l3-6 3 6"],
  clothing: [
    "Clothing",
    "服饰",
    "#b91c1c",
    "M8 4l4 2 4-2 5 4-2.5 3.5L17 10v10H7V10l-1.5 1.5L3 8z",
  ],
  food: [
    "Food and tea",
    "茶饮食品",
    "#4d7c0f",
    "M5 9h12v6a5 5 0 0 1-5 5h-2a5 5 0 0 1-5-5zM17 10h1.5a2.5 2.5 0 0 1 0 5H17M8 6c0-1.5 1-1.5 1-3M13 6c0-1.5 1-1.5 1-3",
  ],
  toys: ["Toys", "玩具", "#d97706", "M4 13h7v7H4zM13 13h7v7h-7zM8.5 4h7v7h-7z"],
};

const $ = id => document.getElementById(id);
let language =
  localStorage.getItem("language") || (navigator.language.startsWith("zh") ? "zh" : "en");
let t = texts[language];
let services = { products: null, search: null };
const list = { category: "", on_shelf: "", text: "", page: 0 };
let shown = []; // products in the list
let hits = null; // the last answer of the search
const messages = new Map(); // by id, both ends joined
const begun = Date.now();

// ---- small tools -------------------------------------------------------------------------------

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children.filter(child => child != null));
  return made;
}

function tile(category) {
  const [, , hue, path] = categories[category] || ["", "", "#64748b", "M5 8l7-4 7 4v8l-7 4-7-4z"];
  const made = element("span", {
    class: "tile",
    style: `--hue:${hue}`,
    title: categoryName(category),
  });
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.append(document.createElementNS("http://www.w3.org/2000/svg", "path"));
  svg.firstChild.setAttribute("d", path);
  made.append(svg);
  return made;
}

const categoryName = category =>
  (categories[category] || [category, category])[language === "zh" ? 1 : 0];
const number = (value, options) =>
  new Intl.NumberFormat(language === "zh" ? "zh-CN" : "en", options).format(value);
const price = cents => "¥" + number(cents / 100, cents % 100 ? { minimumFractionDigits: 2 } : {});
const clock = ms =>
  new Date(ms).toLocaleTimeString("en-GB") + "." + String(ms % 1000).padStart(3, "0");
const took = ms => (ms < 10_000 ? `${ms} ms` : `${Math.round(ms / 1000)} s`);

function later(wait, work) {
  let timer;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...given), wait);
  };
}

const hideToast = later(4000, () => {
  $("toast").hidden = true;
});
function toast(text) {
  $("toast").textContent = text;
  $("toast").className = "bad";
  $("toast").hidden = false;
  hideToast();
}

async function call(url, options) {
  let answer;
  try {
    answer = await fetch(url, options);
  } catch {
    throw new Error(t.lost);
  }
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(body.error || `${answer.status} ${answer.statusText}`);
  return body;
}

// ---- products ----------------------------------------------------------------------------------

let listing = 0;
async function loadProducts() {
  if (services.products == null) return;
  const mine = ++listing;
  const query = new URLSearchParams(Object.entries(list).filter(([, value]) => value !== ""));
  try {
    const page = await call(`${services.products}/api/products?${query}`);
    if (mine !== listing) return;
    shown = page.products;
    const pages = Math.max(1, Math.ceil(page.total / page.page_size));
    $("page-number").textContent = t.page(list.page + 1, pages, page.total);
    $("previous").disabled = list.page === 0;
    $("next").disabled = list.page + 1 >= pages;
    drawProducts();
  } catch (error) {
    toast(error.message);
  }
}

function drawProducts() {
  const rows = shown.map(productRow);
  $("product-list").replaceChildren(
    ...(rows.length ? rows : [element("li", { class: "empty" }, t.noProducts)]),
  );
}

function productRow(product) {
  const label = `${product.on_shelf ? t.switchOff : t.switchOn}: ${product.title[language]}`;
  const flip = element("button", {
    class: "switch",
    type: "button",
    role: "switch",
    "aria-checked": String(product.on_shelf),
    "aria-label": label,
    title: product.on_shelf ? t.switchOff : t.switchOn,
    onclick: event => setShelf(product, event.currentTarget),
  });
  return element(
    "li",
    { "data-sku": product.sku },
    tile(product.category),
    element(
      "div",
      {},
      element("h3", {}, product.title[language]),
      element("p", {}, product.description[language]),
      element(
        "div",
        { class: "facts" },
        element("b", {}, price(product.price_cents)),
        element("span", {}, `#${product.sku}`),
        element("span", {}, categoryName(product.category)),
        state(product),
      ),
    ),
    flip,
  );
}

function state(product) {
  if (product.pending) return element("span", { class: "state late" }, t.pending);
  const message = [...messages.values()].find(
    m => m.sku === product.sku && m.version === product.version,
  );
  if (!message || message.sent_ms < begun) return null;
  if (!message.indexed) return element("span", { class: "state late" }, t.onTheWay);
  const after = took(message.indexed.at_ms - message.sent_ms);
  return element(
    "span",
    { class: "state" },
    product.on_shelf ? t.inIndex(after) : t.outOfIndex(after),
  );
}

async function setShelf(product, flip) {
  const on = !product.on_shelf;
  flip.disabled = true;
  flip.setAttribute("aria-busy", "true");
  flip.setAttribute("aria-checked", String(on));
  try {
    Object.assign(
      product,
      await call(`${services.products}/api/shelf/${product.sku}`, {
        method: on ? "PUT" : "DELETE",
      }),
    );
  } catch (error) {
    toast(error.message);
    return loadProducts();
  }
  redraw(product.sku);
}

// Only the one row changes, so that a keyboard's focus and the scroll stay where they are.
function redraw(sku) {
  const product = shown.find(product => product.sku === sku);
  const row = $("product-list").querySelector(`[data-sku="${sku}"]`);
  if (!product || !row) return;
  const focused = row.contains(document.activeElement);
  const fresh = productRow(product);
  row.replaceWith(fresh);
  if (focused) fresh.querySelector(".switch").focus();
}

// ---- search ------------------------------------------------------------------------------------

let asking = 0;
async function runSearch() {
  if (services.search == null) return;
  const mine = ++asking;
  const asked = performance.now();
  try {
    const found = await call(
      `${services.search}/api/search?${new URLSearchParams({ text: $("query").value })}`,
    );
    if (mine !== asking) return;
    found.ms = Math.max(1, Math.round(performance.now() - asked));
    found.before =
      hits && hits.text === $("query").value ? new Set(hits.products.map(hit => hit.sku)) : null;
    found.text = $("query").value;
    hits = found;
    drawHits();
  } catch (error) {
    toast(error.message);
  }
}

function drawHits() {
  if (!hits) return;
  const asked = hits.text.trim() !== "";
  $("summary").textContent = asked ? t.found(hits.total, hits.ms) : t.listed(hits.listed);
  const rows = hits.products.map(hit =>
    element(
      "li",
      { "data-sku": hit.sku, class: hits.before && !hits.before.has(hit.sku) ? "fresh" : null },
      tile(hit.category),
      element(
        "div",
        {},
        element("h3", {}, ...marked(hit.title[language])),
        element("p", {}, ...marked(hit.description[language])),
      ),
      element("span", { class: "price" }, price(hit.price_cents)),
    ),
  );
  $("hits").replaceChildren(
    ...(rows.length ? rows : [element("li", { class: "empty" }, asked ? t.nothing : t.ask)]),
  );
}

// The words that were typed, where they stand: whole words of English, pairs of characters of
// Chinese.
function marked(text) {
  const han = /\p{Script=Han}/u;
  const pairs = word =>
    word.length < 3
      ? [word]
      : Array.from({ length: word.length - 1 }, (_, at) => word.slice(at, at + 2));
  const stem = word => word.replace(/([^s])s$/, "$1") + "\\w*";
  const words = hits.text.toLowerCase().match(/\p{Script=Han}+|[a-z0-9]{2,}/gu) || [];
  const looked = words.flatMap(word => (han.test(word) ? pairs(word) : [stem(word)]));
  if (!looked.length) return [text];
  return text
    .split(new RegExp(`(${looked.join("|")})`, "giu"))
    .map((part, at) => (at % 2 ? element("mark", {}, part) : part));
}

// ---- what travelled ----------------------------------------------------------------------------

// A message is seen up to twice: by who sent it and by who indexed it, in either order.
function travelled(step) {
  const before = messages.get(step.msg_id);
  messages.delete(step.msg_id);
  messages.set(step.msg_id, { ...step, indexed: step.indexed ?? before?.indexed });
  if (messages.size > 300) messages.delete(messages.keys().next().value);
  drawSoon();
  redraw(step.sku);
  if (step.indexed) searchSoon();
}

function drawMessages() {
  const newest = [...messages.values()].sort((a, b) => b.sent_ms - a.sent_ms).slice(0, 100);
  const rows = newest.map(({ msg_id, topic, tag, sku, sent_ms, indexed }) =>
    element(
      "tr",
      {},
      element("td", {}, clock(sent_ms)),
      element("td", {}, element("span", { class: `tag ${tag}` }, tag)),
      element("td", {}, String(sku)),
      element("td", { class: "number" }, indexed ? took(indexed.at_ms - sent_ms) : ""),
      element(
        "td",
        { class: indexed ? null : "waiting" },
        !indexed ? t.onTheWay : indexed.applied === "known" ? t.known : clock(indexed.at_ms),
      ),
      element("td", {}, topic),
      element("td", { title: msg_id }, element("code", {}, "…" + msg_id.slice(-8))),
    ),
  );
  $("messages").replaceChildren(
    ...(rows.length ? rows : [element("tr", {}, element("td", { colspan: 7 }, t.quiet))]),
  );
}

// A burst of messages is drawn once.
const drawSoon = later(50, drawMessages);
const searchSoon = later(50, runSearch);

function watch(url) {
  const stream = new EventSource(`${url}/api/travelled`);
  stream.onmessage = event => travelled(JSON.parse(event.data));
  // It reconnects by itself; what changed meanwhile is asked for.
  stream.onopen = () => {
    loadProducts();
    runSearch();
  };
}

// ---- language, views, start --------------------------------------------------------------------

function speak() {
  t = texts[language];
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  document.title = t.title;
  for (const place of document.querySelectorAll("[data-t]")) place.textContent = t[place.dataset.t];
  for (const place of document.querySelectorAll("[data-placeholder]")) {
    place.placeholder = t[place.dataset.placeholder];
    place.setAttribute("aria-label", t[place.dataset.placeholder]);
  }
  $("language").textContent = t.other;
  $("language").lang = language === "zh" ? "en" : "zh-CN";
  $("category").setAttribute("aria-label", t.category);
  $("category").replaceChildren(
    element("option", { value: "" }, t.everyCategory),
    ...Object.keys(categories).map(name =>
      element("option", { value: name, selected: name === list.category }, categoryName(name)),
    ),
  );
  $("examples").replaceChildren(
    ...t.examples.map(text =>
      element(
        "button",
        {
          type: "button",
          onclick: () => {
            $("query").value = text;
            runSearch();
          },
        },
        text,
      ),
    ),
  );
  loadProducts();
  drawHits();
  drawMessages();
}

function view(name) {
  document.querySelector("main").dataset.view = name;
  for (const tab of document.querySelectorAll("nav button"))
    tab.setAttribute("aria-selected", String(tab.dataset.view === name));
}

function narrow(change) {
  Object.assign(list, { page: 0 }, change);
  for (const choice of document.querySelectorAll("[data-shelf]")) {
    choice.setAttribute("aria-pressed", String(choice.dataset.shelf === list.on_shelf));
  }
  loadProducts();
}

$("language").onclick = () => {
  language = language === "zh" ? "en" : "zh";
  localStorage.setItem("language", language);
  speak();
};
for (const tab of document.querySelectorAll("nav button"))
  tab.onclick = () => view(tab.dataset.view);
for (const choice of document.querySelectorAll("[data-shelf]"))
  choice.onclick = () => narrow({ on_shelf: choice.dataset.shelf });
$("category").onchange = event => narrow({ category: event.target.value });
$("filter").oninput = later(150, event => narrow({ text: event.target.value.trim() }));
$("query").oninput = later(80, runSearch);
$("previous").onclick = () => narrow({ page: list.page - 1 });
$("next").onclick = () => narrow({ page: list.page + 1 });

async function start() {
  services = await call("api/shop");
  const main = document.querySelector("main");
  for (const [name, url] of [
    ["products", services.products],
    ["search", services.search],
  ]) {
    $(name).hidden = url == null;
    document.querySelector(`nav [data-view=${name}]`).hidden = url == null;
    if (url == null) main.classList.add("single");
  }
  view(services.products == null ? "search" : "products");
  narrow({});
  speak();
  runSearch();
  for (const url of new Set([services.products, services.search])) if (url != null) watch(url);
}

start().catch(error => toast(error.message));
