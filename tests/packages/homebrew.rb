# Stands in for Homebrew, of which a formula calls little: prints the formula's fields as JSON, or runs its `install` and
# its `test`.
#
#   ruby homebrew.rb FORMULA                            the fields
#   ruby homebrew.rb FORMULA SOURCE PREFIX VERSION      installs from the folder SOURCE into PREFIX, and tests that
require "json"
require "pathname"

class Pathname
  def install_symlink(source)
    mkpath
    (self / source.basename).make_symlink(source)
  end
end

module Language
  module Python
    module Virtualenv
      # As Homebrew does: without pip.
      def virtualenv_create(root, python = "python")
        system python, "-m", "venv", "--without-pip", root
      end
    end
  end
end

class Formula
  ONCE = %i[desc homepage url sha256 license].freeze
  attr_reader :buildpath, :prefix, :version

  class << self
    attr_reader :tested

    def fields = @fields ||= { depends_on: [] }

    ONCE.each { |name| define_method(name) { |value| fields[name] = value } }

    def depends_on(what) = fields[:depends_on] << what

    def test(&block) = @tested = block

    def inherited(formula)
      super
      @last = formula
    end

    def last = @last
  end

  def initialize(source, prefix, version)
    @buildpath, @prefix, @version = Pathname(source), Pathname(prefix), version
  end

  def bin = prefix / "bin"

  def libexec = prefix / "libexec"

  def system(*command) = Kernel.system(*command.map(&:to_s), exception: true)

  def shell_output(command)
    output = `#{command}`
    raise "#{command} failed" unless $?.success?

    output
  end

  def assert_match(expected, actual)
    raise "#{expected.inspect} is not in #{actual.inspect}" unless actual.match?(expected)
  end
end

formula, *where = ARGV
load File.expand_path(formula)
if where.empty?
  puts JSON.generate(Formula.last.fields)
else
  made = Formula.last.new(*where)
  Dir.chdir(made.buildpath) { made.install }
  made.instance_eval(&Formula.last.tested)
end
