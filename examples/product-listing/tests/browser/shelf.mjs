// The page as a person uses it: node shelf.mjs PROGRAM SCREENSHOTS-DIRECTORY
//
// Starts the program on a free port with data of its own, drives it in Chromium, and fails at the
// first thing that is not as it should be.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const [program, pictures] = process.argv.slice(2).map(path => resolve(path));
const flags = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

const directory = mkdtempSync(join(tmpdir(), "product-listing-"));
const shop = spawn(program, ["--set", "web.listen=127.0.0.1:0"], {
  cwd: directory,
  env: { ...process.env, CARGO_MANIFEST_DIR: directory },
  stdio: ["ignore", "pipe", "inherit"],
});
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: flags,
});
let checks = 0;

async function check(what, work) {
  await work();
  checks += 1;
  console.log(`ok ${checks} - ${what}`);
}

async function address() {
  for await (const line of createInterface({ input: shop.stdout })) {
    const found = line.match(/^shop: (http:\S+)/);
    if (found) return found[1];
  }
  throw new Error("the program ended without saying where it listens");
}

async function openPage(url, options) {
  const context = await browser.newContext({ locale: "en-GB", ...options });
  const page = await context.newPage();
  const complaints = [];
  page.on("pageerror", error => complaints.push(String(error)));
  page.on("console", line => line.type() === "error" && complaints.push(line.text()));
  page.on("request", request =>
    assert(request.url().startsWith(url) || request.url().startsWith("data:"), request.url()),
  );
  await page.goto(url);
  return { page, complaints };
}

const picture = (page, name) => page.screenshot({ path: join(pictures, `${name}.png`) });
const hit = (page, sku) => page.locator(`#hits [data-sku="${sku}"]`);
const flip = (page, sku) => page.locator(`#product-list [data-sku="${sku}"] .switch`);

async function find(page, text) {
  await page.fill("#query", text);
  await page.waitForFunction(text => document.querySelector("#query").value === text, text);
}

async function onADesk(url) {
  const { page, complaints } = await openPage(url, { viewport: { width: 1366, height: 900 } });
  await check("the catalogue is listed and announced", async () => {
    await page.locator("#product-list li").nth(23).waitFor();
    await page.getByText("168 products can be found").waitFor();
    await picture(page, "desk-start");
  });
  await check("a product that is off the shelf is not found", async () => {
    await find(page, "户外手表");
    await page.getByText("Nothing on the shelf is like that.").waitFor();
  });
  await check("put on the shelf, it appears in the results by itself", async () => {
    await page.fill("#filter", "5004");
    await flip(page, 5004).click();
    await hit(page, 5004).waitFor();
    await page.getByText(/in the index after \d+ ms/).waitFor();
    assert.equal(await flip(page, 5004).getAttribute("aria-checked"), "true");
  });
  await check("its message is shown with its way", async () => {
    const row = page.locator("#messages tr").first();
    await row.getByText("product-shelf").waitFor();
    assert.match(await row.innerText(), /on\s+5004\s+\d+ ms[\s\S]*product-shelf/);
    await picture(page, "desk-found");
  });
  await check("taken off the shelf, it goes from the results by itself", async () => {
    await flip(page, 5004).click();
    await hit(page, 5004).waitFor({ state: "detached" });
    await page.getByText("Nothing on the shelf is like that.").waitFor();
    await page.locator("#messages tr").first().getByText("off").waitFor();
  });
  await check("searches find what they should, in both languages and mixed", async () => {
    for (const [text, sku] of [
      ["wireless headphones", 2001],
      ["无线耳机", 2001],
      ["手机", 1001],
      ["绿茶", 11001],
      ["aurora 手机壳", 1015],
      ["espreso", 7005],
      ["usb-c", 1009],
    ]) {
      await find(page, text);
      await hit(page, sku).first().waitFor();
    }
    await find(page, "headphones");
    await page.getByText(/^[2-9] found/).waitFor();
    await hit(page, 2006).waitFor();
    await picture(page, "desk-search");
  });
  await check("the list narrows by category and shelf, and pages", async () => {
    await page.fill("#filter", "");
    await page.selectOption("#category", "food");
    await page.getByText("1 / 1 · 20 products").waitFor();
    await page.click("[data-shelf=false]");
    await page.getByText("1 / 1 · 6 products").waitFor();
    await page.click("[data-shelf='']");
    await page.selectOption("#category", "");
    await page.click("#next");
    await page.getByText("2 / 10").waitFor();
  });
  await check("the language changes and stays", async () => {
    await page.click("#language");
    await page.getByText("搜索服务").waitFor();
    await find(page, "耳机");
    await page.getByText(/找到 \d+ 件/).waitFor();
    await picture(page, "desk-chinese");
    await page.reload();
    await page.getByText("商品服务").waitFor();
    assert.equal(await page.locator("html").getAttribute("lang"), "zh-CN");
  });
  assert.deepEqual(complaints, []);
}

async function onAPhone(url, colorScheme) {
  const viewport = { width: 390, height: 844 };
  const { page, complaints } = await openPage(url, {
    viewport,
    colorScheme,
    isMobile: true,
    hasTouch: true,
    deviceScaleFactor: 2,
  });
  const fits = () => page.evaluate(() => document.documentElement.scrollWidth <= innerWidth);
  await check(`on a ${colorScheme} phone, three views fit the screen`, async () => {
    await page.locator("#product-list li").first().waitFor();
    assert(await fits(), "products are wider than the screen");
    await picture(page, `phone-${colorScheme}-products`);
    await page.tap("nav [data-view=search]");
    await find(page, "coffee");
    await page.locator("#hits [data-sku]").first().waitFor();
    assert(await fits(), "search is wider than the screen");
    await picture(page, `phone-${colorScheme}-search`);
    await page.tap("nav [data-view=travelled]");
    await page.locator("#messages tr").first().waitFor();
    assert(await fits(), "messages are wider than the screen");
    await picture(page, `phone-${colorScheme}-messages`);
  });
  await check(`on a ${colorScheme} phone, a product goes on and off the shelf`, async () => {
    await page.tap("nav [data-view=products]");
    for (const state of ["true", "false"]) {
      await flip(page, 1004).tap();
      await page.locator(`[data-sku="1004"] .switch[aria-checked="${state}"]`).waitFor();
      await page.locator('[data-sku="1004"] .state').getByText("index after").waitFor();
    }
  });
  assert.deepEqual(complaints, []);
}

try {
  mkdirSync(pictures, { recursive: true });
  const url = await address();
  shop.stdout.resume();
  await onADesk(url);
  await onAPhone(url, "light");
  await onAPhone(url, "dark");
  console.log(`\n${checks} passed, 0 failed`);
} finally {
  await browser.close();
  if (shop.exitCode === null && shop.kill()) await once(shop, "exit");
  rmSync(directory, { recursive: true, force: true });
}
