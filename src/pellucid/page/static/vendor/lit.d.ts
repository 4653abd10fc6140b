// What the modules use of lit.js.
export type Shown = unknown;
export function html(strings: TemplateStringsArray, ...values: unknown[]): Shown;
export function svg(strings: TemplateStringsArray, ...values: unknown[]): Shown;
export function render(shown: Shown, where: HTMLElement): void;
export const nothing: unique symbol;
export class LitElement extends HTMLElement {
  static properties: Record<string, { attribute?: boolean; state?: boolean }>;
  readonly updateComplete: Promise<boolean>;
  requestUpdate(): void;
  connectedCallback(): void;
  disconnectedCallback(): void;
  protected createRenderRoot(): HTMLElement;
  protected render(): Shown;
  protected willUpdate(changed: Map<string, unknown>): void;
  protected updated(changed: Map<string, unknown>): void;
}
