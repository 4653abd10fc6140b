# For a tap, after the first release: URL and SHA256 are those of the sdist. Linux alone: macOS is untested.
class Pellucid < Formula
  include Language::Python::Virtualenv

  desc "Fast, exact and clear CPU runtime for Transformer language models"
  homepage "URL"
  url "URL"
  sha256 "SHA256"
  license "Apache-2.0"

  depends_on :linux
  depends_on "python@3.13"

  # The dependencies come as wheels: tokenizers and sentencepiece would need Rust, CMake and a quarter of an hour.
  def install
    virtualenv_create(libexec, "python3.13")
    system libexec/"bin/python", "-m", "ensurepip"
    system libexec/"bin/python", "-m", "pip", "install", "--prefer-binary", buildpath
    bin.install_symlink libexec/"bin/pellucid"
  end

  test do
    assert_match "pellucid #{version}", shell_output("#{bin}/pellucid --version")
    assert_match "smollm2-135m", shell_output("#{bin}/pellucid models")
    system libexec/"bin/python", "-c", "from pellucid import _engine; print(_engine.find_isa(None))"
  end
end
