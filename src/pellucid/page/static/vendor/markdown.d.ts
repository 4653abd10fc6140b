// What the modules use of markdown.js.
export interface Block {
  type: string;
  raw: string;
}
export const marked: {
  lexer(text: string): Block[] & { links: Record<string, unknown> };
  parser(blocks: Block[]): string;
};
export const DOMPurify: {
  sanitize(text: string, rules: object): string;
  addHook(name: "afterSanitizeAttributes", hook: (node: Element) => void): void;
};
